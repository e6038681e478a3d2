// EventService: a service that writes down the events it is told; the kernel that it runs in.
//
// Purpose:   what tests of TCP and of UDP share.
// Threads:   any; reactions and tasks run in turns of the service.
// Ownership: the kernel has an actor that refers to the EventService, which has to outlive it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "../eventually.h"
#include "core/kernel.h"

namespace perilune::test {

// A kernel in real time with two workers; its log is seen by nobody.
class QuietKernel {
  public:
    explicit QuietKernel(KernelOptions options = {}) {
        LogOptions quiet;
        quiet.descriptor = -1;
        log_ = std::move(Log::open(quiet).value());
        options.workers = 2;
        kernel_ = std::make_unique<Kernel>(options, Kernel::Environment{clock_, random_, *log_});
    }
    Kernel& operator*() { return *kernel_; }
    Kernel* operator->() { return kernel_.get(); }

  private:
    RealClock clock_;
    SystemRandom random_;
    std::unique_ptr<Log> log_;
    std::unique_ptr<Kernel> kernel_;
};

// `Event` has two fields at least: `event`, what happened, and `id`, to what.
template <typename Event>
class EventService {
  public:
    using Kind = decltype(Event::event);
    using Id = decltype(Event::id);
    // Makes an event of a message; nothing of one that is none.
    using Read = std::function<std::optional<Event>(MessagePtr&)>;
    // Gives back what a service that dies has.
    using Release = std::function<void(Handle)>;
    using Reaction = std::function<void(const Event&)>;

    EventService(Kernel& kernel, Read read, Release release, Reaction reaction)
        : kernel_(kernel),
          read_(std::move(read)),
          release_(std::move(release)),
          reaction_(std::move(reaction)) {
        cell_ = kernel.create_cell(std::make_unique<Receiver>(*this));
        handle = kernel.add_service(cell_, nullptr).value();
        kernel.launch(cell_);
    }

    Handle handle;

    // Handles no message until resume(): its mailbox fills.
    void hold() {
        const std::lock_guard lock(mutex_);
        held_ = true;
    }
    void resume() {
        const std::lock_guard lock(mutex_);
        held_ = false;
        changed_.notify_all();
    }
    // Runs `task` in a turn of this service, before the next message.
    void run(std::function<void()> task) {
        {
            const std::lock_guard lock(mutex_);
            tasks_.push_back(std::move(task));
        }
        MessagePtr message = make_message(MessageKind::send, handle, {}, 0);
        (void)kernel_.post(message);
    }
    // Dies with its next message, and waits for that.
    void die() {
        run([this] {
            release_(handle);
            (void)kernel_.remove_service(handle);
            cell_->finished = true;
        });
        while (kernel_.registry().alive(handle)) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

    std::vector<Event> events() {
        const std::lock_guard lock(mutex_);
        return events_;
    }
    // How many events of a kind there were, of one id if it is given.
    std::size_t count(Kind kind, Id id = {}) {
        const std::lock_guard lock(mutex_);
        return count_locked(kind, id);
    }
    // Waits until `n` events of a kind have come.
    bool wait(Kind kind, std::size_t n = 1,
              std::chrono::milliseconds limit = std::chrono::seconds(20)) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, limit, [&] { return count_locked(kind, {}) >= n; });
    }
    // The newest event of a kind, or an empty one.
    Event last(Kind kind) {
        const std::lock_guard lock(mutex_);
        for (auto event = events_.rbegin(); event != events_.rend(); ++event) {
            if (event->event == kind) return *event;
        }
        return {};
    }

  private:
    class Receiver final : public Actor {
      public:
        explicit Receiver(EventService& service) : service_(service) {}
        void receive(MessagePtr message) override { service_.receive(std::move(message)); }

      private:
        EventService& service_;
    };

    void receive(MessagePtr message) {
        std::vector<std::function<void()>> tasks;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return !held_; });
            tasks.swap(tasks_);
        }
        for (const auto& task : tasks) task();
        if (cell_->finished) return;
        const std::optional<Event> event = read_(message);
        if (!event) return;
        if (reaction_) reaction_(*event);
        const std::lock_guard lock(mutex_);
        events_.push_back(*event);
        changed_.notify_all();
    }
    std::size_t count_locked(Kind kind, Id id) {
        std::size_t count = 0;
        for (const Event& event : events_) {
            count += event.event == kind && (!id || event.id == id) ? 1 : 0;
        }
        return count;
    }

    Kernel& kernel_;
    const Read read_;
    const Release release_;
    const Reaction reaction_;
    ActorCell* cell_ = nullptr;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Event> events_;                 // guarded by mutex_
    std::vector<std::function<void()>> tasks_;  // guarded by mutex_
    bool held_ = false;                         // guarded by mutex_
};

}  // namespace perilune::test
