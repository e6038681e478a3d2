// DESIGN
//
// A tick is kTickNs, counted from the clock's zero. Which list a timer is in depends on
// the highest group of bits in which its tick differs from the current one, tick_: the lowest
// 10 bits choose among the lists of level 0, each of which is a single tick; each level above
// takes 6 more bits. When tick_ reaches the beginning of a list of a higher level, its timers
// are spread over the levels below; they keep their order, and everything that is added for
// the same ticks afterwards comes behind them. That is why timers of a tick expire in the
// order of adding. (Levels chosen by the length of the delay instead, as in the old Linux
// wheel, would not keep it.)
//
// Only lists at or after tick_ have timers, so the first one to handle is the first set bit of
// the lowest level that has any. Empty stretches are jumped over.
//
// The mutex is let go between two batches of a long list. Two things make that harmless. A
// list of level 0 is taken from its front, and nothing is added to it once its tick has come.
// While a list of a higher level is being spread (moving_level_), what is added for its ticks
// goes to its own end.
//
// When many timers wait, each is somewhere else in memory, and waiting for memory is most of what
// an expiry costs. So the links to the next timer are in the slots, which lie close together: they
// are followed first, and all the timers that are due prefetched. Owners have no list through
// their timers, but ids beside them.
//
// Ids: a slot's number and generation. The timers themselves live in chunks that are given
// back when no timer is left in them; generations stay. Free slots queue up.
#include "core/timer_wheel.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>

#include "core/clock.h"
#include "core/random.h"

namespace perilune {

struct TimerWheel::Timer {
    std::int64_t due_ns;
    std::int64_t period_ns;  // 0: once
    std::uint64_t session;
    OwnerTimers* owner;
    std::uint32_t previous;  // in its list of the wheel
    std::uint16_t list;
    bool in_flight;  // repeats, and a callback is being handed out
    bool waits;      // repeats, and what was handed out is not handled yet
};

struct TimerWheel::Slot {
    std::uint32_t generation : 31;  // of the timer in it, or of the next one
    std::uint32_t live : 1;
    std::uint32_t next;  // live: in its list of the wheel; else among the free
};

struct TimerWheel::Chunk {
    std::unique_ptr<Slot[]> slots;
    Timers timers;  // null while live is 0, or nearly always
    std::uint32_t live = 0;
};

struct TimerWheel::Expired {
    Handle owner;
    std::uint64_t session;
    TimerId id;
    std::int64_t due_ns;
    bool repeats;
    bool handled;
};

OwnerTimers::~OwnerTimers() {
    if (count_ == 0) return;
    std::fprintf(stderr, "perilune: an owner of %u timers was destroyed\n", count_);
    std::abort();
}

static std::int64_t tick_at(std::int64_t time_ns) {
    return std::max<std::int64_t>(time_ns, 0) / TimerWheel::kTickNs;
}

static std::int64_t first_tick_from(std::int64_t time_ns) {
    return tick_at(time_ns) + (time_ns > 0 && time_ns % TimerWheel::kTickNs != 0 ? 1 : 0);
}

TimerWheel::TimerWheel(const Options& options)
    : seed_(options.seed),
      max_slots_(std::min(options.slots, kMaxSlots)),
      min_free_(options.free_slots),
      per_owner_(options.per_owner),
      reserved_(options.reserved),
      generations_(std::clamp(options.generations, 1u, kMaxGeneration)),
      tick_(tick_at(options.start_ns)),
      target_ns_(options.start_ns),
      next_due_ns_(INT64_MAX) {
    static_assert(sizeof(Timer) + sizeof(Slot) <= 64, "a timer takes at most 64 bytes");
}

TimerWheel::~TimerWheel() = default;

std::int64_t TimerWheel::due_after(std::int64_t now_ns, std::int64_t delay_ms) {
    if (delay_ms <= 0) return now_ns;
    return saturating_add(now_ns, ms_to_ns(delay_ms));
}

// --- slots ---

// Mapped, not allocated: a million timers that have expired would stay in the heap, as other
// things live between them (measured: 60 MB).
TimerWheel::Timers TimerWheel::map_timers() {
    static_assert(sizeof(Timer) * kChunkSize % 4096 == 0, "a chunk is made of whole pages");
    void* memory = mmap(nullptr, sizeof(Timer) * kChunkSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        std::fprintf(stderr, "perilune: out of memory for timers\n");
        std::abort();
    }
    return Timers(static_cast<Timer*>(memory));
}

void TimerWheel::Unmap::operator()(Timer* timers) const {
    munmap(timers, sizeof(Timer) * kChunkSize);
}

TimerWheel::Timer& TimerWheel::timer(std::uint32_t index) {
    return chunks_[index / kChunkSize].timers[index % kChunkSize];
}

TimerWheel::Slot& TimerWheel::slot(std::uint32_t index) {
    return chunks_[index / kChunkSize].slots[index % kChunkSize];
}

std::uint32_t TimerWheel::first_generation(std::uint32_t index) const {
    std::uint64_t state = seed_ + index;
    return 1 + static_cast<std::uint32_t>(splitmix64(state) % generations_);
}

// A slot for a timer, or kNone.
std::uint32_t TimerWheel::take_slot() {
    std::uint32_t index = kNone;
    if (slots_made_ < max_slots_ && free_count_ <= min_free_) {
        index = slots_made_++;
        if (index / kChunkSize == chunks_.size()) {
            chunks_.push_back(Chunk{std::make_unique<Slot[]>(kChunkSize), nullptr});
        }
        slot(index).generation = first_generation(index);
    } else if (free_count_ > 0) {
        index = free_.first;
        free_.first = slot(index).next;
        --free_count_;
    } else {
        return kNone;
    }
    Chunk& chunk = chunks_[index / kChunkSize];
    if (chunk.timers == nullptr && spare_chunks_.empty()) {
        chunk.timers = map_timers();
    } else if (chunk.timers == nullptr) {
        chunk.timers = std::move(spare_chunks_.back());
        spare_chunks_.pop_back();
    }
    ++chunk.live;
    slot(index).live = 1;
    return index;
}

void TimerWheel::free_slot(std::uint32_t index) {
    Chunk& chunk = chunks_[index / kChunkSize];
    if (--chunk.live == 0) {
        if (spare_chunks_.size() < kSpareChunks) spare_chunks_.push_back(std::move(chunk.timers));
        chunk.timers.reset();
    }
    Slot& freed = slot(index);
    freed.live = 0;
    freed.generation = freed.generation == generations_ ? 1 : freed.generation + 1;
    if (freed.generation == first_generation(index)) {
        ++counters_.retired;
        return;
    }
    if (free_count_++ == 0) {
        free_.first = index;
    } else {
        slot(free_.last).next = index;
    }
    free_.last = index;
}

bool TimerWheel::only_reserve_left() const {
    return std::uint64_t{counters_.waiting} + counters_.retired + reserved_ >= max_slots_;
}

// --- lists ---

// The list of `level` that `tick` belongs to.
std::uint32_t TimerWheel::list_index(int level, std::int64_t tick) {
    if (level == 0) return static_cast<std::uint32_t>(tick) & ((1u << kFirstBits) - 1);
    const int shift = kFirstBits + kBits * (level - 1);
    const std::uint32_t digit = static_cast<std::uint32_t>(tick >> shift) & ((1u << kBits) - 1);
    return (1u << kFirstBits) + static_cast<std::uint32_t>(level - 1) * (1u << kBits) + digit;
}

// The list for `tick` >= tick_, seen from tick_.
std::uint32_t TimerWheel::list_for(std::int64_t tick) const {
    const std::uint64_t difference = static_cast<std::uint64_t>(tick ^ tick_);
    if (difference >> kFirstBits == 0) return list_index(0, tick);
    const int highest_bit = 63 - std::countl_zero(difference);
    return list_index((highest_bit - kFirstBits) / kBits + 1, tick);
}

void TimerWheel::append(std::uint32_t list_number, std::uint32_t index) {
    List& list = lists_[list_number];
    Timer& added = timer(index);
    added.list = static_cast<std::uint16_t>(list_number);
    slot(index).next = kNone;
    added.previous = list.last;
    if (list.last == kNone) {
        list.first = index;
        used_[list_number / 64] |= std::uint64_t{1} << (list_number % 64);
    } else {
        slot(list.last).next = index;
    }
    list.last = index;
}

// Puts a timer with its due time set, but in no list, where it belongs.
void TimerWheel::schedule(std::uint32_t index) {
    const std::int64_t tick = std::max(first_tick_from(timer(index).due_ns), tick_ + 1);
    std::uint32_t list = list_for(tick);
    if (moving_level_ > 0) {
        const int shift = kFirstBits + kBits * (moving_level_ - 1);
        if (tick >> shift == tick_ >> shift) list = list_index(moving_level_, tick_);
    }
    append(list, index);
    const std::int64_t due_ns = tick > INT64_MAX / kTickNs ? INT64_MAX : tick * kTickNs;
    if (due_ns < next_due_ns_.load()) publish_next_due();
}

void TimerWheel::unlink(std::uint32_t index) {
    const Timer& removed = timer(index);
    List& list = lists_[removed.list];
    const std::uint32_t next = slot(index).next;
    if (removed.previous == kNone) {
        begin_list_at(removed.list, next);
        return;
    }
    slot(removed.previous).next = next;
    if (next == kNone) {
        list.last = removed.previous;
    } else {
        timer(next).previous = removed.previous;
    }
}

// Takes all timers before `index` off a list; all there are when it is kNone.
void TimerWheel::begin_list_at(std::uint32_t list_number, std::uint32_t index) {
    List& list = lists_[list_number];
    list.first = index;
    if (index != kNone) {
        timer(index).previous = kNone;
        return;
    }
    list.last = kNone;
    used_[list_number / 64] &= ~(std::uint64_t{1} << (list_number % 64));
}

// --- owners ---

bool TimerWheel::is_live(TimerId id) {
    const Slot& found = slot(id.slot());
    return found.live != 0 && found.generation == id.generation();
}

// Forgets others that are gone when that is half of them: a constant cost each.
void TimerWheel::remember(OwnerTimers& owner, TimerId id) {
    std::vector<TimerId>& ids = owner.ids_;
    if (ids.size() == ids.capacity() && owner.count_ <= ids.size() / 2) {
        std::erase_if(ids, [this](TimerId other) { return !is_live(other); });
    }
    ids.push_back(id);
    ++owner.count_;
}

// Ends a timer that is in no list of the wheel any more.
void TimerWheel::remove(std::uint32_t index) {
    OwnerTimers& owner = *timer(index).owner;
    if (--owner.count_ == 0) {
        owner.ids_.clear();
        if (owner.ids_.capacity() > kKeptIds) owner.ids_.shrink_to_fit();
    }
    --counters_.waiting;
    free_slot(index);
}

// The first list that has timers; false when none has.
bool TimerWheel::find_first(Place& place) const {
    if (moving_level_ > 0) {
        place = {moving_level_, list_index(moving_level_, tick_), tick_};
        return true;
    }
    for (std::uint32_t word = list_index(0, tick_) / 64; word < used_.size(); ++word) {
        if (used_[word] == 0) continue;
        const std::uint32_t list =
            word * 64 + static_cast<std::uint32_t>(std::countr_zero(used_[word]));
        if (list < 1u << kFirstBits) {
            const std::int64_t block = tick_ >> kFirstBits << kFirstBits;
            place = {0, list, block + list};
            return true;
        }
        const int level = static_cast<int>((list - (1u << kFirstBits)) >> kBits) + 1;
        const int shift = kFirstBits + kBits * (level - 1);
        const std::int64_t block = tick_ >> (shift + kBits) << (shift + kBits);
        place = {level, list, block + (std::int64_t{list & ((1u << kBits) - 1)} << shift)};
        return true;
    }
    return false;
}

void TimerWheel::publish_next_due() {
    Place place;
    std::int64_t due_ns = INT64_MAX;
    if (find_first(place) && place.tick <= INT64_MAX / kTickNs) due_ns = place.tick * kTickNs;
    if (due_ns != next_due_ns_.load()) next_due_ns_.store(due_ns);
}

// --- what others call ---

TimerId TimerWheel::add(OwnerTimers& owner, std::uint64_t session, std::int64_t due_ns,
                        std::int64_t period_ns, bool bounded) {
    const std::lock_guard lock(mutex_);
    const bool refused = bounded && (owner.count_ >= per_owner_ || only_reserve_left());
    const std::uint32_t index = refused ? kNone : take_slot();
    if (index == kNone) {
        ++counters_.refused;
        return {};
    }
    Timer& added = timer(index);
    added.due_ns = due_ns;
    added.period_ns = std::max<std::int64_t>(period_ns, 0);
    added.session = session;
    added.owner = &owner;
    added.in_flight = false;
    added.waits = false;
    ++counters_.added;
    ++counters_.waiting;
    schedule(index);
    const TimerId id = TimerId::make(index, slot(index).generation);
    remember(owner, id);
    return id;
}

bool TimerWheel::cancel(TimerId id, const OwnerTimers* owner) {
    const std::lock_guard lock(mutex_);
    const std::uint32_t index = id.slot();
    if (id.node() != 0 || index >= slots_made_) return false;
    const Slot& found = slot(index);
    if (!found.live || found.generation != id.generation()) return false;
    if (owner != nullptr && timer(index).owner != owner) return false;
    const bool in_flight = timer(index).in_flight;
    unlink(index);
    const std::uint16_t list = timer(index).list;
    remove(index);
    ++counters_.cancelled;
    if (lists_[list].first == kNone) publish_next_due();
    return !in_flight;
}

std::size_t TimerWheel::cancel_all(OwnerTimers& owner) {
    std::size_t count = 0;
    std::unique_lock lock(mutex_);
    while (!owner.ids_.empty()) {
        for (std::uint32_t i = 0; i < kMoveBatch && !owner.ids_.empty(); ++i) {
            const TimerId id = owner.ids_.back();
            owner.ids_.pop_back();
            if (!is_live(id)) continue;
            unlink(id.slot());
            remove(id.slot());
            ++counters_.cancelled;
            ++count;
        }
        publish_next_due();
        if (owner.ids_.empty()) break;
        lock.unlock();
        lock.lock();
    }
    return count;
}

void TimerWheel::handled(TimerId id) {
    const std::lock_guard lock(mutex_);
    const std::uint32_t index = id.slot();
    if (index >= slots_made_) return;
    const Slot& found = slot(index);
    if (found.live && found.generation == id.generation()) timer(index).waits = false;
}

// Moves timers of the list at `place`, which begins at tick_, to lower levels.
void TimerWheel::spread(const Place& place) {
    std::uint32_t index = lists_[place.list].first;
    for (std::uint32_t i = 0; i < kMoveBatch && index != kNone; ++i) {
        const std::uint32_t moved = index;
        index = slot(moved).next;
        append(list_for(std::max(first_tick_from(timer(moved).due_ns), tick_)), moved);
    }
    begin_list_at(place.list, index);
    moving_level_ = index == kNone ? 0 : place.level;
}

// Ends a timer that is due and was taken off its list, or lets it begin again.
TimerWheel::Expired TimerWheel::expire(std::uint32_t index) {
    Timer& due = timer(index);
    const Expired expired = {
        due.owner->owner_, due.session,       TimerId::make(index, slot(index).generation),
        due.due_ns,        due.period_ns > 0, true};
    if (due.period_ns == 0) {
        remove(index);
        return expired;
    }
    due.in_flight = due.waits = true;
    repeat(index);
    return expired;
}

// Puts a timer that repeats and was taken off its list where it is due next.
void TimerWheel::repeat(std::uint32_t index) {
    Timer& due = timer(index);
    // The first repetition after now: target_ns_ >= due_ns, as the timer has expired.
    const std::int64_t missed = (target_ns_ - due.due_ns) / due.period_ns;
    const std::int64_t last_ns = due.due_ns + missed * due.period_ns;
    due.due_ns = saturating_add(last_ns, due.period_ns);
    schedule(index);
}

// Takes timers off the list at `place`, whose tick is tick_, and puts what is to be handed out
// into `batch`. Returns how many these are.
std::uint32_t TimerWheel::take_expired(const Place& place, Expired* batch) {
    std::uint32_t indices[kBatch];
    std::uint32_t taken = 0;
    std::uint32_t index = lists_[place.list].first;
    for (; taken < kBatch && index != kNone; index = slot(index).next) {
        __builtin_prefetch(&timer(index));
        indices[taken++] = index;
    }
    begin_list_at(place.list, index);
    std::uint32_t count = 0;
    for (std::uint32_t i = 0; i < taken; ++i) {
        if (timer(indices[i]).waits) {
            ++counters_.skipped;
            repeat(indices[i]);
        } else {
            batch[count++] = expire(indices[i]);
        }
    }
    counters_.expired += count;
    return count;
}

std::size_t TimerWheel::advance(std::int64_t now_ns, TimerSink& sink) {
    Expired batch[kBatch];
    std::size_t total = 0;
    std::unique_lock lock(mutex_);
    target_ns_ = std::max(target_ns_, now_ns);
    if (advancing_) return 0;
    advancing_ = true;
    Place place;
    while (find_first(place) && place.tick <= tick_at(target_ns_)) {
        tick_ = place.tick;
        if (place.level > 0) {
            spread(place);
            publish_next_due();
            if (moving_level_ == 0) continue;
            lock.unlock();  // others get their turn
            lock.lock();
            continue;
        }
        const std::uint32_t count = take_expired(place, batch);
        publish_next_due();
        lock.unlock();
        bool any_repeats = false;
        for (std::uint32_t i = 0; i < count; ++i) {
            Expired& due = batch[i];
            if (due.repeats) {
                due.handled = sink.repeated(due.owner, due.session, due.id, due.due_ns);
                any_repeats = true;
            } else {
                sink.expired(due.owner, due.session, due.id, due.due_ns);
            }
        }
        total += count;
        lock.lock();
        for (std::uint32_t i = 0; any_repeats && i < count; ++i) {
            if (!batch[i].repeats) continue;
            const std::uint32_t index = batch[i].id.slot();
            const bool same = slot(index).generation == batch[i].id.generation();
            if (!same || !slot(index).live) continue;
            timer(index).in_flight = false;
            if (batch[i].handled) timer(index).waits = false;
        }
    }
    tick_ = std::max(tick_, tick_at(target_ns_));
    advancing_ = false;
    return total;
}

TimerWheel::Counters TimerWheel::counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
}

}  // namespace perilune
