// Vm: tasks, what they wait for, and the timers that call.

#include <algorithm>
#include <cstring>

#include "lua/lua_codec.h"
#include "lua/lua_core.h"
#include "lua/sandbox.h"
#include "lua/vm.h"

namespace perilune {

namespace {

constexpr int kIndexBits = 20;
constexpr std::uint32_t kMaxIndex = (1u << kIndexBits) - 1;
constexpr std::uint64_t kCallbackBit = std::uint64_t{1} << 52;
constexpr std::int64_t kLimitResolutionNs = 10 * kNsPerMs;
constexpr std::size_t kReadyPerMessage = 64;

// The traceback of a coroutine that raised in Lua lacks the line of its innermost frame, "\tfile:
// in function", which the message begins with, "file:3: ".
void add_top_line(std::string& traceback, std::string_view message) {
    const std::size_t frame = traceback.find("\n\t");
    if (frame == std::string::npos) return;
    const std::size_t end = traceback.find(": in ", frame);
    if (end == std::string::npos) return;
    const std::string file = traceback.substr(frame + 2, end - frame - 2);
    if (file.find('\n') != std::string::npos || message.substr(0, file.size()) != file) return;
    std::size_t digits = file.size() + 1;
    while (digits < message.size() && message[digits] >= '0' && message[digits] <= '9') ++digits;
    if (digits == file.size() + 1 || message.substr(digits, 2) != ": ") return;
    traceback.insert(end, message.substr(file.size(), digits - file.size()));
}

}  // namespace

// --- tasks ---

Task* Vm::take_task(Service& service, std::string_view name) {
    Task* task = free_tasks_;
    if (task == nullptr) {
        tasks_.push_back(std::make_unique<Task>());
        task = tasks_.back().get();
    } else {
        free_tasks_ = task->next;
    }
    if (task->thread == nullptr) {
        task->thread = lua_newthread(L_);
        task->reference = luaL_ref(L_, LUA_REGISTRYINDEX);
    }
    task->service = &service;
    task->sender = {};
    task->watcher = 0;
    task->purpose = Purpose::command;
    const std::size_t length = std::min(name.size(), sizeof task->name - 1);
    std::memcpy(task->name, name.data(), length);
    task->name[length] = '\0';
    task->previous = nullptr;
    task->next = service.tasks;
    if (service.tasks != nullptr) service.tasks->previous = task;
    service.tasks = task;
    ++service.task_count;
    return task;
}

void Vm::give_task(Task* task, bool reusable) {
    Service& service = *task->service;
    (task->previous == nullptr ? service.tasks : task->previous->next) = task->next;
    if (task->next != nullptr) task->next->previous = task->previous;
    --service.task_count;
    while (task->locks != nullptr) {
        task->locks->depth = 1;
        lock_leave(*task->locks);
    }
    task->service = nullptr;
    task->packet.reset();
    task->ready = false;
    task->rows.reset();
    if (!reusable) {
        luaL_unref(L_, LUA_REGISTRYINDEX, task->reference);
        task->thread = nullptr;
    }
    task->next = free_tasks_;
    free_tasks_ = task;
}

void Vm::resume(Task* task, int arguments) {
    Service& service = *task->service;
    current_ = task;
    entry_frame_ = static_cast<const char*>(__builtin_frame_address(0));
    arena_.may_refuse(true);
    const int status = lua_resume(task->thread, arguments);
    arena_.may_refuse(false);
    current_ = nullptr;
    if (status != 0 && status != LUA_YIELD && !killing_ &&
        interrupt_level_ == static_cast<int>(InterruptLevel::kill)) {
        interrupted_in_c(task->thread);
    }
    if (killing_) {
        // However it ended: tail calls may have returned what a killed coroutine yielded.
        fail_task(task, Ending::killed);
    } else if (status == 0) {
        finish_task(task);
    } else if (status != LUA_YIELD) {
        fail_task(task, Ending::error);
    } else if (task->wait == 0 && !task->ready) {
        fail_task(task, Ending::yielded);
    }
    if (!service.exit_reason.empty()) [[unlikely]] {
        const std::string reason = std::exchange(service.exit_reason, {});
        begin_stop(service, reason);
    }
}

void Vm::finish_task(Task* task) {
    switch (task->purpose) {
        case Purpose::command:
            if (task->request != nullptr) reply(std::move(task->request), task->thread, 1);
            break;
        case Purpose::packet: finish_packet(task); return;
        case Purpose::load: loaded(task); return;
        case Purpose::start: {
            Service& service = *task->service;
            lua_settop(task->thread, 0);
            give_task(task, true);
            started(service);
            return;
        }
        case Purpose::stop: {
            Service& service = *task->service;
            lua_settop(task->thread, 0);
            give_task(task, true);
            end_service(service, service.end_reason);
            return;
        }
    }
    lua_settop(task->thread, 0);
    give_task(task, true);
}

void Vm::fail_task(Task* task, Ending ending) {
    Service& service = *task->service;
    lua_State* co = task->thread;
    if (task->wait != 0) {
        free_wait(task->wait);
        task->wait = 0;
    }
    std::string text;
    std::string traceback;
    int value_index = 0;
    switch (ending) {
        case Ending::error:
            value_index = lua_gettop(co);
            text = error_text(co, value_index);
            luaL_traceback(L_, co, nullptr, 0);
            traceback = lua_tostring(L_, -1);
            lua_pop(L_, 1);
            add_top_line(traceback, text);
            // LuaJIT's own words, when a single request was too large.
            if (text == "not enough memory") text += memory_limit_text();
            break;
        case Ending::yielded:
            text = "coroutine.yield outside of a coroutine of the script's own";
            luaL_traceback(L_, co, nullptr, 0);
            traceback = lua_tostring(L_, -1);
            lua_pop(L_, 1);
            break;
        case Ending::killed:
            text = std::exchange(kill_text_, {});
            traceback = std::exchange(kill_traceback_, {});
            break;
        default: break;
    }
    if (ending == Ending::killed && task->watcher != 0) {
        int count = 2;
        if (task->watcher_index != 0) {
            lua_pushinteger(L_, task->watcher_index);
            ++count;
        }
        lua_pushboolean(L_, 0);
        lua_pushlstring(L_, text.data(), text.size());
        wake(L_, service, task->watcher, count);
    }
    const bool memory = ending == Ending::killed && kill_for_memory_;
    if (ending == Ending::killed) settle_kill();
    MessagePtr packet = std::move(task->packet);
    if (packet == nullptr || memory) report_error(service, task->name, text, traceback, memory);
    MessagePtr request = std::move(task->request);
    if (request != nullptr) {
        write_failure(*request, text, traceback, value_index == 0 ? nullptr : co, value_index);
        kernel().answer(std::move(request), MessageKind::failure, Outcome::error);
    }
    const Purpose purpose = task->purpose;
    // What remains of it is garbage, whatever state it is in.
    MessagePtr start_request;
    if (purpose == Purpose::load || purpose == Purpose::start) {
        start_request = std::move(service.start_request);
        if (start_request != nullptr && start_request->session != 0) {
            write_failure(*start_request, text, traceback, value_index == 0 ? nullptr : co,
                          value_index);
        }
    }
    give_task(task, false);
    if (memory) {
        end_service(service, "memory");
    } else if (purpose == Purpose::load || purpose == Purpose::start) {
        end_service(service, "error");
    } else if (purpose == Purpose::stop) {
        end_service(service, service.end_reason);
    }
    if (packet != nullptr && !memory) {
        fail_packet(service, *packet, *read_header(packet->payload()), text + "\n" + traceback);
    }
    // When the spawner hears of it, the service never was.
    if (start_request != nullptr && start_request->session != 0) {
        kernel().answer(std::move(start_request), MessageKind::failure, Outcome::error);
    }
}

void Vm::fork(lua_State* L, Service& service, int arguments) {
    Task* task = take_task(service, "fork");
    // Not luaL_checkstack, which would raise in the other coroutine.
    if (lua_checkstack(task->thread, arguments + 1) == 0) {
        give_task(task, true);
        luaL_error(L, "perilune.fork: too many arguments");
    }
    lua_xmove(L, task->thread, arguments + 1);
    task->ready = true;
    if (current_ != nullptr) task->sender = current_->sender;
    ready_.emplace_back(task, arguments);
}

void Vm::make_ready(Task& task) {
    task.ready = true;
    ready_.emplace_back(&task, 0);
}

void Vm::run_ready() {
    // Those that become ready meanwhile have to wait for the messages that came first.
    std::size_t left = std::min(ready_.size(), kReadyPerMessage);
    while (left-- > 0 && !ready_.empty()) {
        const auto [task, arguments] = ready_.front();
        ready_.pop_front();
        if (task == nullptr) continue;  // its service died
        task->ready = false;
        Service& service = *task->service;
        running_handle_.store(service.handle.value, std::memory_order_relaxed);
        if (service.light && charged_ != &service) charge_to(&service);
        resume(task, arguments);
    }
    if (ready_.empty() || ready_posted_) return;
    for (const auto& [task, arguments] : ready_) {
        if (task == nullptr) continue;
        MessagePtr message = make_message(MessageKind::ready, task->service->handle, {}, 0);
        ready_posted_ = kernel().post(message) == PostResult::ok;
        return;
    }
    ready_.clear();
}

// --- waits ---

std::uint64_t Vm::session_of(std::uint32_t index) const {
    return (std::uint64_t{waits_[index].generation} << kIndexBits) | index;
}

Wait* Vm::find_wait(std::uint64_t session) {
    const std::uint32_t index = session & kMaxIndex;
    if (index == 0 || index >= waits_.size() || session >= kCallbackBit) return nullptr;
    Wait& wait = waits_[index];
    return wait.kind != WaitKind::free && wait.generation == session >> kIndexBits ? &wait
                                                                                   : nullptr;
}

std::uint32_t Vm::take_wait_slot() {
    std::uint32_t index = free_waits_;
    if (index != 0) {
        free_waits_ = waits_[index].next;
    } else {
        if (waits_.size() > kMaxIndex) return 0;
        index = static_cast<std::uint32_t>(waits_.size());
        waits_.emplace_back();
    }
    const std::uint32_t generation = waits_[index].generation + 1;
    waits_[index] = Wait{};
    // 32 bits of generation below the callbacks' bit; 0 is never used, so that the sessions
    // below 2^20 are free for the host's own.
    waits_[index].generation = generation == 0 ? 1 : generation;
    return index;
}

void Vm::free_wait(std::uint32_t index) {
    Wait& wait = waits_[index];
    if (wait.list != 0) unlink_limit(index);
    if (wait.timer) {
        // Its message may be on its way; the session finds nothing any more.
        kernel().cancel_timer(wait.service->timers, wait.timer);
        --wait.service->timer_count;
    }
    if (wait.woken_with != LUA_NOREF) luaL_unref(L_, LUA_REGISTRYINDEX, wait.woken_with);
    if (wait.kind == WaitKind::token && wait.task == nullptr) --wait.service->token_count;
    wait.kind = WaitKind::free;
    wait.task = nullptr;
    wait.woken_with = LUA_NOREF;
    wait.next = free_waits_;
    free_waits_ = index;
}

std::uint64_t Vm::begin_wait(Task& task, WaitKind kind, Handle target, std::int64_t limit_ms) {
    const std::uint32_t index = take_wait_slot();
    if (index == 0) return 0;
    Wait& wait = waits_[index];
    wait.kind = kind;
    wait.task = &task;
    wait.service = task.service;
    wait.target = target;
    task.wait = index;
    if (kind == WaitKind::call && limit_ms > 0) link_limit(index, limit_ms);
    return session_of(index);
}

void Vm::drop_wait(std::uint64_t session) {
    Wait* wait = find_wait(session);
    if (wait == nullptr) return;
    if (wait->task != nullptr) wait->task->wait = 0;
    free_wait(session & kMaxIndex);
}

bool Vm::begin_sleep(Task& task, std::int64_t ms) {
    const std::uint64_t session = begin_wait(task, WaitKind::timer, {}, 0);
    if (session == 0) return false;
    const TimerId timer = kernel().add_bounded_timer(
        task.service->timers, session, TimerWheel::due_after(kernel().clock().now_ns(), ms));
    if (!timer) {
        drop_wait(session);
        return false;
    }
    waits_[task.wait].timer = timer;
    ++task.service->timer_count;
    return true;
}

std::uint64_t Vm::make_token(Service& service) {
    const std::uint32_t index = take_wait_slot();
    if (index == 0) return 0;
    waits_[index].kind = WaitKind::token;
    waits_[index].service = &service;
    ++service.token_count;
    return session_of(index);
}

int Vm::wait_on(lua_State* L, Task& task, std::uint64_t token, std::int64_t limit_ms, int* values) {
    Wait* wait = find_wait(token);
    if (wait == nullptr || wait->kind != WaitKind::token || wait->task != nullptr) return -1;
    const std::uint32_t index = token & kMaxIndex;
    if (wait->woken_with != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, wait->woken_with);
        const int table = lua_gettop(L);
        lua_getfield(L, table, "n");
        *values = static_cast<int>(lua_tointeger(L, -1));
        lua_pop(L, 1);
        luaL_checkstack(L, *values, "too many values");
        for (int i = 1; i <= *values; ++i) lua_rawgeti(L, table, i);
        free_wait(index);
        return 1;
    }
    if (limit_ms > 0) {
        wait->timer =
            kernel().add_bounded_timer(task.service->timers, token,
                                       TimerWheel::due_after(kernel().clock().now_ns(), limit_ms));
        if (!wait->timer) {
            free_wait(index);
            return -2;
        }
        ++task.service->timer_count;
    }
    wait->task = &task;
    --wait->service->token_count;
    task.wait = index;
    return 0;
}

bool Vm::wake(lua_State* L, Service& service, std::uint64_t token, int count) {
    Wait* wait = find_wait(token);
    if (wait == nullptr || wait->kind != WaitKind::token || wait->service != &service ||
        wait->woken_with != LUA_NOREF) {
        lua_pop(L, count);
        return false;
    }
    if (wait->task == nullptr) {
        lua_createtable(L, count, 1);
        lua_insert(L, -(count + 1));
        for (int i = count; i >= 1; --i) lua_rawseti(L, -(i + 1), i);
        lua_pushinteger(L, count);
        lua_setfield(L, -2, "n");
        const int reference = luaL_ref(L, LUA_REGISTRYINDEX);
        find_wait(token)->woken_with = reference;
        return true;
    }
    Task* task = wait->task;
    if (task->thread != L && lua_checkstack(task->thread, count) == 0) {
        luaL_error(L, "core.wake: too many values");
    }
    free_wait(task->wait);
    task->wait = 0;
    if (task->thread != L) lua_xmove(L, task->thread, count);
    task->ready = true;
    ready_.emplace_back(task, count);
    return true;
}

// --- limits of calls: a first-in first-out list for each distinct limit, one timer for all ---

void Vm::link_limit(std::uint32_t index, std::int64_t limit_ms) {
    std::uint32_t number = 0;
    for (std::uint32_t i = 1; i < limits_.size(); ++i) {
        if (limits_[i].limit_ms == limit_ms) {
            number = i;
            break;
        }
        if (limits_[i].first == 0 && number == 0) number = i;  // empty: may change its limit
    }
    if (number == 0) {
        number = static_cast<std::uint32_t>(limits_.size());
        limits_.emplace_back();
    }
    LimitList& list = limits_[number];
    list.limit_ms = limit_ms;
    Wait& wait = waits_[index];
    // Coarse time is cheap and up to 4 ms behind; the resolution makes up for it, so that no
    // call ends early.
    wait.deadline_ns = saturating_add(TimerWheel::due_after(kernel().clock().coarse_ns(), limit_ms),
                                      kLimitResolutionNs);
    wait.list = number;
    wait.next = 0;
    wait.previous = list.last;
    (list.last == 0 ? list.first : waits_[list.last].next) = index;
    list.last = index;
    if (wait.deadline_ns < limit_timer_due_) arm_limits();
}

void Vm::unlink_limit(std::uint32_t index) {
    Wait& wait = waits_[index];
    LimitList& list = limits_[wait.list];
    (wait.previous == 0 ? list.first : waits_[wait.previous].next) = wait.next;
    (wait.next == 0 ? list.last : waits_[wait.next].previous) = wait.previous;
    wait.list = 0;
}

void Vm::arm_limits() {
    std::int64_t earliest = INT64_MAX;
    for (const LimitList& list : limits_) {
        if (list.first != 0) earliest = std::min(earliest, waits_[list.first].deadline_ns);
    }
    if (earliest == INT64_MAX) {
        limit_timer_due_ = INT64_MAX;
        return;
    }
    if (limit_timer_id_) kernel().cancel_timer(*limit_timer_, limit_timer_id_);
    limit_timer_id_ = kernel().add_timer(*limit_timer_, kLimitsSession, earliest);
    // Without one the next call that waits asks again.
    limit_timer_due_ = limit_timer_id_ ? earliest : INT64_MAX;
}

void Vm::check_limits() {
    limit_timer_id_ = {};
    limit_timer_due_ = INT64_MAX;
    const std::int64_t now = kernel().clock().now_ns();
    for (std::size_t i = 1; i < limits_.size(); ++i) {
        while (limits_[i].first != 0 && waits_[limits_[i].first].deadline_ns <= now) {
            const std::uint32_t index = limits_[i].first;
            Task* task = waits_[index].task;
            const std::int64_t limit_ms = limits_[i].limit_ms;
            free_wait(index);
            task->wait = 0;
            kernel().counters().calls_failed.fetch_add(1, std::memory_order_relaxed);
            const int count = push_failure(task->thread, Outcome::timeout,
                                           "no reply within " + std::to_string(limit_ms) + " ms");
            task->ready = true;
            ready_.emplace_back(task, count);
        }
    }
    arm_limits();
}

// --- timers that call ---

void Vm::push_callbacks(lua_State* L) {
    if (callback_values_ == LUA_NOREF) {
        lua_newtable(L);
        callback_values_ = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, callback_values_);
}

const void* Vm::keep_callback(lua_State* L, std::uint32_t index, int function_index,
                              int first_argument, int count) {
    push_callbacks(L);
    if (count == 0) {
        lua_pushvalue(L, function_index);
    } else {
        lua_createtable(L, count + 1, 0);
        lua_pushvalue(L, function_index);
        lua_rawseti(L, -2, 1);
        for (int i = 0; i < count; ++i) {
            lua_pushvalue(L, first_argument + i);
            lua_rawseti(L, -2, i + 2);
        }
    }
    const void* object = lua_topointer(L, -1);
    lua_rawseti(L, -2, static_cast<int>(index));
    lua_pop(L, 1);
    return object;
}

std::uint64_t Vm::add_callback(lua_State* L, Service& service, std::int64_t delay_ms, bool repeats,
                               int function_index, int first_argument) {
    const std::uint32_t index =
        free_callbacks_ != 0 ? free_callbacks_ : static_cast<std::uint32_t>(callbacks_.size());
    if (index > kMaxIndex) return 0;
    const int count = std::max(lua_gettop(L) - first_argument + 1, 0);
    const void* object = keep_callback(L, index, function_index, first_argument, count);
    if (free_callbacks_ == 0) {
        callbacks_.emplace_back();
    } else {
        free_callbacks_ = callbacks_[index].next;
    }
    Callback& callback = callbacks_[index];
    callback.object = object;
    callback.argument_count = count;
    callback.generation = callback.generation + 1 == 0 ? 1 : callback.generation + 1;
    callback.service = &service;
    callback.repeats = repeats;
    const std::uint64_t id =
        kCallbackBit | (std::uint64_t{callback.generation} << kIndexBits) | index;
    callback.timer = kernel().add_bounded_timer(
        service.timers, id, TimerWheel::due_after(kernel().clock().now_ns(), delay_ms),
        repeats ? ms_to_ns(delay_ms) : 0);
    ++service.timer_count;
    if (callback.timer) return id;
    free_callback(callback);
    return 0;
}

Callback* Vm::find_callback(std::uint64_t id) {
    if ((id & kCallbackBit) == 0 || id >= kCallbackBit * 2) return nullptr;
    const std::uint32_t index = id & kMaxIndex;
    if (index == 0 || index >= callbacks_.size()) return nullptr;
    Callback& callback = callbacks_[index];
    const std::uint32_t generation = static_cast<std::uint32_t>((id & ~kCallbackBit) >> kIndexBits);
    return callback.service != nullptr && callback.generation == generation ? &callback : nullptr;
}

void Vm::free_callback(Callback& callback) {
    const auto index = static_cast<std::uint32_t>(&callback - callbacks_.data());
    push_callbacks(L_);
    lua_pushnil(L_);
    lua_rawseti(L_, -2, static_cast<int>(index));
    lua_pop(L_, 1);
    --callback.service->timer_count;
    callback.service = nullptr;
    callback.next = free_callbacks_;
    free_callbacks_ = index;
}

// Many timers at once were set at all sorts of times, so that each of them is somewhere else in
// memory: the record of the fourth and what the second's leads to are on their way while another
// one is called.
void Vm::expect_timer(const Message& next) {
    const Message* second = next.next;
    const Message* third = second == nullptr ? nullptr : second->next;
    const Message* fourth = third == nullptr ? nullptr : third->next;
    if (fourth != nullptr && fourth->session >= kCallbackBit) {
        const std::uint32_t index = fourth->session & kMaxIndex;
        if (index < callbacks_.size()) __builtin_prefetch(&callbacks_[index]);
    }
    const Callback* callback = second == nullptr ? nullptr : find_callback(second->session);
    if (callback == nullptr) return;
    const char* object = static_cast<const char*>(callback->object);
    __builtin_prefetch(object);
    __builtin_prefetch(object + 64);
    __builtin_prefetch(object + 128);
}

void Vm::run_callback(Callback& callback) {
    Service& service = *callback.service;
    const int count = callback.argument_count;
    push_callbacks(L_);
    lua_rawgeti(L_, -1, static_cast<int>(&callback - callbacks_.data()));
    lua_replace(L_, -2);
    if (count > 0) lua_rawgeti(L_, -1, 1);
    const char* name = "timer";
    if (lua_type(L_, -1) == LUA_TSTRING) {
        // By name, so that a reload takes effect.
        name = lua_tostring(L_, -1);
        if (!push_command(service, name)) {
            const std::string text = std::string("a timer calls \"") + name +
                                     "\", which the service's first table does not have";
            lua_pop(L_, count > 0 ? 2 : 1);
            if (!callback.repeats) free_callback(callback);
            report_error(service, "timer", text, {});
            return;
        }
        lua_replace(L_, -2);
    }
    Task* task = take_task(service, name);
    lua_State* co = task->thread;
    lua_xmove(L_, co, 1);
    if (count > 0) {
        lua_xmove(L_, co, 1);
        lua_checkstack(co, count + 1);
        for (int i = 2; i <= count + 1; ++i) lua_rawgeti(co, 2, i);
        lua_remove(co, 2);
    }
    if (!callback.repeats) free_callback(callback);
    resume(task, count);
}

bool Vm::cancel_callback(Service& service, std::uint64_t id) {
    Callback* callback = find_callback(id);
    if (callback == nullptr || callback->service != &service) return false;
    kernel().cancel_timer(service.timers, callback->timer);
    // A message of it may be on its way; its id finds nothing any more.
    free_callback(*callback);
    return true;
}

int Vm::cancel_callbacks(Service& service) {
    int count = 0;
    for (Callback& callback : callbacks_) {
        if (callback.service != &service) continue;
        kernel().cancel_timer(service.timers, callback.timer);
        free_callback(callback);
        ++count;
    }
    return count;
}

// --- locks and requests that are answered later ---

void Vm::lock_leave(Lock& lock) {
    if (--lock.depth > 0) return;
    Task* owner = lock.owner;
    for (Lock** link = &owner->locks; *link != nullptr; link = &(*link)->next) {
        if (*link == &lock) {
            *link = lock.next;
            break;
        }
    }
    lock.owner = nullptr;
    while (!lock.waiting.empty()) {
        const std::uint64_t token = lock.waiting.front();
        lock.waiting.pop_front();
        Wait* wait = find_wait(token);
        if (wait == nullptr || wait->task == nullptr) continue;  // it was killed meanwhile
        lock_enter(*wait->task, lock);
        wake(L_, *wait->service, token, 0);
        return;
    }
}

std::uint64_t Vm::defer(Service& service, MessagePtr request) {
    if (service.deferred == nullptr) {
        service.deferred = std::make_unique<std::vector<std::pair<std::uint64_t, MessagePtr>>>();
    }
    service.deferred->emplace_back(next_deferred_, std::move(request));
    return next_deferred_++;
}

MessagePtr Vm::take_deferred(Service& service, std::uint64_t number) {
    if (service.deferred == nullptr) return nullptr;
    // In order of their numbers, and mostly few.
    const auto at = std::lower_bound(
        service.deferred->begin(), service.deferred->end(), number,
        [](const auto& entry, std::uint64_t wanted) { return entry.first < wanted; });
    if (at == service.deferred->end() || at->first != number) return nullptr;
    MessagePtr request = std::move(at->second);
    service.deferred->erase(at);
    return request;
}

// --- for bindings ---

Service& Vm::service(lua_State* L) {
    if (current_ == nullptr) luaL_error(L, "only a service can do this");
    return *current_->service;
}

Task& Vm::yieldable_task(lua_State* L, const char* what) {
    // What misuse() raises doesn't come back.
    if (current_ == nullptr) {
        misuse(L, "%s: only a service can do this", what);
    } else if (current_->thread != L) {
        misuse(L,
               "%s waits, which it can't in a coroutine that the script made: use "
               "perilune.fork instead of coroutine.create",
               what);
    } else if (lua_isyieldable(L) == 0) {
        // Found out by lua_yield it would be too late: the task's next wait got this one's answer.
        misuse(L, "%s waits, which it can't in a function that table.sort or string.gsub calls",
               what);
    }
    // cppcheck-suppress nullPointerRedundantCheck
    return *current_;
}

}  // namespace perilune
