// Actor: what the scheduler runs; ActorCell: where it lives.
//
// Purpose:   the unit of scheduling. A Lua VM is an actor (with one service or many), and so
//            is a native service. The kernel knows no more of it than this.
// Threads:   an actor runs on one worker at a time; all its functions but interrupt() are
//            called by that worker.
// Ownership: a cell owns its actor. Cells come from a pool of the kernel and are never freed
//            while it lives, so a stale pointer meets a closed mailbox or a stranger's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/mailbox.h"

namespace perilune {

// How hard the watchdog knocks at a dispatch that does not end.
enum class InterruptLevel : std::uint8_t {
    report = 1,  // say where it is, and go on
    kill = 2,    // end this request; the service lives
};

class Actor {
  public:
    virtual ~Actor() = default;

    // A turn, some messages in a row on one worker, took so many cycles (see cycles.h).
    virtual void turn_ends(std::uint64_t cycles) { (void)cycles; }

    // Handles one message, control messages included.
    virtual void receive(MessagePtr message) = 0;

    // A timer comes next, after the message that is received now: what it needs can be fetched
    // from memory meanwhile. `next` and those behind it (Message::next) stay where they are.
    virtual void expect_timer(const Message& next) { (void)next; }

    // Called inside a signal handler on the worker that runs this actor: only what is
    // async-signal-safe. (Not under ThreadSanitizer: see Watchdog::take_request.)
    virtual void interrupt(InterruptLevel level) { (void)level; }

    // The service that the running dispatch belongs to, for reports. Any thread.
    virtual Handle running_service() const { return {}; }
};

struct ActorCell {
    Mailbox mailbox;
    std::unique_ptr<Actor> actor;          // the worker that runs it
    bool finished = false;                 // the worker that runs it: bury it after this turn
    ActorCell* next_runnable = nullptr;    // whoever holds it: a run queue, or nobody
    std::atomic<bool> wants_drain{false};  // somebody paused until the mailbox has room again
    std::uint32_t index = 0;               // constant: its place in the pool
};

}  // namespace perilune
