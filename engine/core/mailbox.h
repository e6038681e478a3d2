// Mailbox: the messages that wait for one actor.
//
// Purpose:   a list of many writers and one reader, bounded in count and bytes, and a second
//            list for control messages that the reader looks at before each message.
// Threads:   push() from any; all else from the one thread that runs the actor now.
// Ownership: the mailbox owns what was pushed. Mailboxes are never freed while their node
//            lives (actors take them from a pool), so a late push() meets a closed mailbox or
//            its next owner, who tells by Message::to that the message is not its own.
//
// The list is Treiber's stack; the reader takes all of it at once and reverses it, so the
// order of each sender is kept. The head says at the same time whether the actor has to be
// scheduled:
//   idle mark   nothing waits and the actor is in no queue: who replaces it must schedule it
//   null        nothing waits, the actor runs or will
//   a message   the newest of those that wait
//   closed mark the actor is dead: push() refuses
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/message.h"

namespace perilune {

inline constexpr std::uint64_t kMailboxMessages = 65536;
inline constexpr std::uint64_t kMailboxBytes = 64u << 20;
// Who reads sockets for an owner stops when so many of their messages wait there: what comes later
// is as well off where it is, and what is handled soon is still in the processor's cache.
inline constexpr std::uint64_t kReadAhead = 1024;

enum class PushResult {
    queued,
    wake_actor,  // queued, and this caller alone must schedule the actor
    closed,      // not queued: the actor is dead
    full,        // not queued: count or bytes are at the limit
    late,        // of push_control(): see there
};

// Count and bytes of what waits, in one word so that both are checked by one operation.
class Load {
  public:
    static constexpr int kCountShift = 40;

    // Adds `count` messages of `bytes` together. With `bounded` it refuses, and adds nothing,
    // when a limit would be passed.
    bool add(std::uint64_t count, std::uint64_t bytes, bool bounded, std::uint64_t max_count,
             std::uint64_t max_bytes) {
        const std::uint64_t all = (count << kCountShift) + bytes;
        const std::uint64_t before = word_.fetch_add(all);
        if (!bounded) return true;
        if (count_of(before) + count <= max_count && bytes_of(before) + bytes <= max_bytes) {
            return true;
        }
        word_.fetch_sub(all);
        return false;
    }
    void subtract(std::uint64_t count, std::uint64_t bytes) {
        word_.fetch_sub((count << kCountShift) + bytes);
    }
    void reset() { word_.store(0); }
    std::uint64_t count() const { return count_of(word_.load()); }
    std::uint64_t bytes() const { return bytes_of(word_.load()); }

  private:
    static std::uint64_t count_of(std::uint64_t word) { return word >> kCountShift; }
    static std::uint64_t bytes_of(std::uint64_t word) {
        return word & ((std::uint64_t{1} << kCountShift) - 1);
    }
    std::atomic<std::uint64_t> word_{0};
};

class Mailbox {
  public:
    Mailbox() = default;
    ~Mailbox();
    Mailbox(const Mailbox&) = delete;
    Mailbox& operator=(const Mailbox&) = delete;

    // Appends `message`. Any thread. Takes it only when the result is queued or wake_actor.
    // With `bounded` the limits apply; replies, timers and the like come without.
    [[nodiscard]] PushResult push(MessagePtr& message, bool bounded);

    // Appends to the control list, which has no limit: its writers are few. Late: the owner has
    // closed it meanwhile and may not look there again. What was left there is now the caller's,
    // in `message` and those behind it (Message::next): `message` and others, or none.
    [[nodiscard]] PushResult push_control(MessagePtr& message);

    // The oldest message, or null; of joined ones a part. Owner.
    MessagePtr pop();
    // What pop() takes next, as far as is known without asking other threads. Owner.
    const Message* upcoming() const { return taken_; }
    // The oldest control message, or null. Owner.
    MessagePtr pop_control();
    bool has_control() const { return control_.load() != nullptr || control_taken_ != nullptr; }

    // Gives back the room of what was popped since the last call: once a turn, not once a
    // message. Owner.
    void settle();

    // True when nothing waits any more and the actor has left the run queue: the next push()
    // returns wake_actor. Owner.
    [[nodiscard]] bool try_idle();

    // From now on push() returns closed; what waits stays to be popped. Owner.
    void close();
    // Opens a closed and drained mailbox for its next actor, as running. Owner.
    void open(std::uint64_t max_count, std::uint64_t max_bytes);

    const Load& load() const { return load_; }
    std::uint64_t max_count() const { return max_count_.load(std::memory_order_relaxed); }
    // True when half of a limit is reached: nothing more is read for the owner.
    bool half_full() const { return !is_below(4); }
    // True when what sockets have for the owner had better wait.
    bool has_enough() const { return read_.load() >= read_ahead() || half_full(); }
    // True when there is so much room again that reading on is worth while.
    bool has_drained() const { return read_.load() < read_ahead() * 3 / 4 && is_below(3); }

  private:
    static Message* idle_mark() { return reinterpret_cast<Message*>(1); }
    static Message* closed_mark() { return reinterpret_cast<Message*>(2); }
    static bool is_mark(const Message* head) { return reinterpret_cast<std::uintptr_t>(head) <= 2; }
    static Message* reversed(Message* newest);
    std::uint64_t read_ahead() const { return std::min(kReadAhead, max_count() / 2); }
    bool is_below(std::uint64_t eighths) const {
        return load_.count() * 8 < max_count() * eighths &&
               load_.bytes() * 8 < max_bytes_.load(std::memory_order_relaxed) * eighths;
    }
    static bool is_read(const Message& message) { return message.kind == MessageKind::socket; }

    // Any thread.
    alignas(64) std::atomic<Message*> head_{closed_mark()};
    std::atomic<Message*> control_{nullptr};
    Load load_;
    std::atomic<std::uint64_t> read_{0};  // of the messages those of sockets
    std::atomic<std::uint64_t> max_count_{kMailboxMessages};
    std::atomic<std::uint64_t> max_bytes_{kMailboxBytes};

    // Owner only.
    alignas(64) Message* taken_ = nullptr;  // taken from head_, oldest first
    Message* control_taken_ = nullptr;
    std::uint64_t popped_count_ = 0;
    std::uint64_t popped_bytes_ = 0;
    std::uint64_t popped_read_ = 0;
};

}  // namespace perilune
