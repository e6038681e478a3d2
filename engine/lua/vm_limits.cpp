// Vm: limits of time and memory, and the compiler's budget.
//
// One hook of LuaJIT serves all limits. It counts instructions, is set with a count of one when
// something is wanted (from a signal handler on this thread, or inside an allocation), and stays
// set until the host has control again: a hook that fired once could be survived by a loop
// around pcall. To end a task it yields, which no pcall or xpcall sees; where a yield can't be
// (inside table.sort, string.gsub with a function, require) LuaJIT raises instead, and the hook
// strikes again further out. A count of one also tells the loops of string.find, lpeg and the like
// (3rd/patches) to raise: no hook runs in C.

#include <algorithm>

#include "core/cycles.h"
#include "core/watchdog.h"
#include "lua/sandbox.h"
#include "lua/vm.h"

namespace perilune {

namespace {

// A count that only looks, and so must not end what runs in C.
constexpr int kLook = 2;
constexpr int kEnd = 1;
constexpr int kPollInstructions = 1000;  // under ThreadSanitizer, where signals are deferred
constexpr std::uint64_t kLongTurnMs = 5;
constexpr std::uint32_t kLongTurns = 3;
constexpr std::uint64_t kLongTurnsWithinMs = 60'000;

}  // namespace

void Vm::interrupt(InterruptLevel level) {
    interrupt_level_ = static_cast<int>(level);
    const int count = level == InterruptLevel::kill ? kEnd : kLook;
    if (L_ != nullptr && !masked_) lua_sethook(L_, on_hook, LUA_MASKCOUNT, count);
}

void Vm::over_limit(void* context) {
    Vm& vm = *static_cast<Vm*>(context);
    vm.over_limit_ = 1;
    if (vm.L_ != nullptr && !vm.masked_) lua_sethook(vm.L_, on_hook, LUA_MASKCOUNT, kLook);
}

void Vm::disarm_hook() {
#if defined(PERILUNE_TSAN)
    lua_sethook(L_, on_hook, LUA_MASKCOUNT, kPollInstructions);
#else
    lua_sethook(L_, nullptr, 0, 0);
#endif
}

void Vm::on_hook(lua_State* L, lua_Debug*) { Vm::of(L).hook(L); }

void Vm::hook(lua_State* L) {
#if defined(PERILUNE_TSAN)
    InterruptLevel requested;
    if (Watchdog::take_request(requested)) interrupt(requested);
#endif
    if (!killing_ && over_limit_ != 0 && !collect() && !end_largest_others()) {
        killing_ = true;
        kill_for_memory_ = true;
        kill_text_ = memory_text();
        luaL_traceback(L, L, nullptr, 0);
        kill_traceback_ = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    if (interrupt_level_ != 0) {
        const bool kill = interrupt_level_ == static_cast<int>(InterruptLevel::kill);
        interrupt_level_ = 0;
        luaL_traceback(L, L, nullptr, 0);
        const char* traceback = lua_tostring(L, -1);
        if (kill) {
            // Whoever dies of memory may take long to do it: that stays the reason.
            if (!killing_) kill_text_ = interrupt_text();
            killing_ = true;
            kill_traceback_ = traceback;
        } else if (current_ != nullptr) {
            kernel().log().write(LogLevel::warn, describe(*current_->service),
                                 std::string(current_->name) + " has been running for over " +
                                     std::to_string(kernel().options().report_ms) + " ms\n" +
                                     traceback,
                                 LogText::lines);
        }
        lua_pop(L, 1);
    }
    if (!killing_) {
        if (over_limit_ == 0) disarm_hook();
        return;
    }
    lua_sethook(L, on_hook, LUA_MASKCOUNT, kEnd);
    if (lua_isyieldable(L) != 0) {
        lua_yield(L, 0);
        return;
    }
    // An ordinary error would run the handlers of xpcall inside this hook, where no hook fires
    // and a loop never ends. Running out of memory runs none.
    if (limit_to_restore_ == 0) limit_to_restore_ = arena_.limit();
    arena_.set_limit(1);
    lua_newuserdata(L, 2 * Arena::kHugeRequest);
}

std::string Vm::interrupt_text() const {
    return "ended after " + std::to_string(host_.kernel().options().interrupt_ms) +
           " ms without a pause (watchdog.interrupt_ms)";
}

std::string Vm::memory_text() const { return "ended: memory" + memory_limit_text(); }

std::string Vm::memory_limit_text() const {
    const std::size_t limit = limit_to_restore_ != 0 ? limit_to_restore_ : arena_.limit();
    return " (limit " + std::to_string(limit >> 20) + " MB)";
}

void Vm::interrupted_in_c(lua_State* co) {
    killing_ = true;
    kill_text_ = interrupt_text();
    luaL_traceback(L_, co, nullptr, 0);
    kill_traceback_ = lua_tostring(L_, -1);
    lua_pop(L_, 1);
}

bool Vm::collect() {
    over_limit_ = 0;
    lua_gc(L_, LUA_GCCOLLECT, 0);
    arena_.rearm();
    // A little below, or the next allocation would bring it here again, and again.
    return arena_.used() <= arena_.limit() - arena_.limit() / 32;
}

Service* Vm::largest_service() {
    Service* largest = services_;
    for (Service* service = services_; service != nullptr; service = service->next) {
        if (service->memory > largest->memory) largest = service;
    }
    return largest;
}

void Vm::end_for_memory(Service& service) {
    host_.counters().memory_kills.fetch_add(1, std::memory_order_relaxed);
    kernel().log().write(LogLevel::error, describe(service), memory_text());
    end_service(service, "memory");
}

bool Vm::end_largest_others() {
    // In a group the one that has most pays, not the one that happens to run.
    while (current_ != nullptr) {
        Service* largest = largest_service();
        if (largest == nullptr || largest == current_->service) return false;
        end_for_memory(*largest);
        if (collect()) return true;
    }
    return false;
}

void Vm::settle_hook() {
    interrupt_level_ = 0;
    disarm_hook();
    if (over_limit_ == 0 || collect()) return;
    // Passed by what C++ put there: no Lua was running, so the largest pays.
    if (Service* largest = largest_service()) end_for_memory(*largest);
}

void Vm::settle_kill() {
    killing_ = false;
    if (!kill_for_memory_) {
        host_.counters().interrupted_requests.fetch_add(1, std::memory_order_relaxed);
    } else {
        host_.counters().memory_kills.fetch_add(1, std::memory_order_relaxed);
    }
    kill_for_memory_ = false;
    interrupt_level_ = 0;
    over_limit_ = 0;
    if (limit_to_restore_ != 0) arena_.set_limit(std::exchange(limit_to_restore_, 0));
    over_limit_ = 0;
    disarm_hook();
    arena_.rearm();
}

void Vm::charge_to(Service* service) {
    const std::uint64_t now = cycles_now();
    if (charged_ != nullptr) {
        const std::uint64_t spent = now - charge_began_;
        charged_->cycles += spent;
        // The collector may have freed in its turn what others had left: that is no credit.
        charged_->memory = std::max<std::int64_t>(charged_->memory, 0);
        if (spent > kLongTurnMs * cycles_per_ms() &&
            now - charged_->long_turns_since > kLongTurnsWithinMs * cycles_per_ms()) {
            charged_->long_turns = 0;
            charged_->long_turns_since = now;
        }
        if (spent > kLongTurnMs * cycles_per_ms() && ++charged_->long_turns == kLongTurns) {
            kernel().log().write(
                LogLevel::warn, describe(*charged_),
                "has held its group \"" + group_ + "\" up three times: it is unfit for a group");
        }
    }
    charged_ = service;
    charge_began_ = now;
    arena_.set_charge(service == nullptr ? nullptr : &service->memory);
}

void Vm::turn_ends(std::uint64_t cycles) {
    cycles_ += cycles;
    if (charged_ != nullptr) charge_to(nullptr);
    if (jit_on_) {
        last_active_ns_.store(kernel().clock().coarse_ns(), std::memory_order_relaxed);
    } else if (L_ != nullptr) {
        consider_jit();
    }
}

void Vm::consider_jit() {
#if !defined(PERILUNE_TSAN) && !defined(PERILUNE_STOCK_LUAJIT)
    const LuaHostOptions& options = host_.options();
    if (!options.jit || kernel().seeded()) return;
    if (cycles_ - cycles_at_jit_ <
        static_cast<std::uint64_t>(options.jit_after_ms) * cycles_per_ms()) {
        return;
    }
    // Asked again after as much time, whatever the answer.
    cycles_at_jit_ = cycles_;
    if (cell_->finished || !host_.promote(this)) return;
    jit_on_ = true;
    enable_jit(L_);
#endif
}

void Vm::shrink() {
    if (jit_on_) {
        // Off alone would go on running what is compiled.
        luaJIT_setmode(L_, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
        luaJIT_setmode(L_, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_FLUSH);
        jit_on_ = false;
        needs_close_ = true;
        cycles_at_jit_ = cycles_;
        host_.demoted(this);
    }
    if (L_ != nullptr) {
        lua_gc(L_, LUA_GCCOLLECT, 0);
        arena_.trim();
    }
}

}  // namespace perilune
