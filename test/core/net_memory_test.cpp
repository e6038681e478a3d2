// Tests of the in-memory network: the same seed gives the same events.
#include "net/memory_transport.h"

#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "net/network.h"

namespace perilune {
namespace {

using namespace std::chrono_literals;

// A seeded node with a server that echoes and clients that talk to it.
class World {
  public:
    explicit World(std::uint64_t seed) : random_(seed) {
        LogOptions quiet;
        quiet.descriptor = -1;
        log_ = std::move(Log::open(quiet).value());
        KernelOptions options;
        options.seeded = true;
        options.seed = seed;
        kernel_ =
            std::make_unique<Kernel>(options, Kernel::Environment{clock_, random_, *log_, &clock_});
        network_ = std::make_unique<Network>(*kernel_, std::make_unique<MemoryTransport>(*kernel_));
        EXPECT_TRUE(network_->start().ok());
        server_ = add("server");
        for (int i = 0; i < 3; ++i) add("client" + std::to_string(i));
        ListenOptions listen;
        listen.port = 7;
        listen.stream.framing = FramingKind::packet;
        listen.stream.idle_ms = 50;
        EXPECT_TRUE(network_->listen(server_->handle, listen).ok());
        for (std::size_t i = 1; i < services_.size(); ++i) {
            MessagePtr go = make_message(MessageKind::send, services_[i]->handle, {}, 0);
            (void)kernel_->post(go);
        }
        EXPECT_TRUE(kernel_->start().ok());
    }
    ~World() {
        kernel_->stop();
        network_.reset();
        kernel_.reset();
    }

    // Runs until nothing more can happen, and returns what happened.
    std::string trace() {
        for (int i = 0; i < 2000 && ends_.load() < 6; ++i) std::this_thread::sleep_for(1ms);
        kernel_->stop();
        return trace_;
    }
    const NetworkCounters& counters() { return network_->counters(); }
    std::int64_t now() { return clock_.now_ns(); }

  private:
    struct Service final : public Actor {
        World* world;
        std::string name;
        Handle handle;
        int answers = 0;
        void receive(MessagePtr message) override { world->receive(*this, std::move(message)); }
    };

    Service* add(const std::string& name) {
        auto actor = std::make_unique<Service>();
        Service* service = actor.get();
        service->world = this;
        service->name = name;
        ActorCell* cell = kernel_->create_cell(std::move(actor));
        service->handle = kernel_->add_service(cell, nullptr).value();
        kernel_->launch(cell);
        services_.push_back(service);
        return service;
    }

    void receive(Service& service, MessagePtr message) {
        if (message->kind == MessageKind::send) {
            ConnectOptions to;
            to.host = "server.example";
            to.port = 7;
            to.stream.framing = FramingKind::packet;
            (void)network_->connect(service.handle, to);
            return;
        }
        if (message->kind != MessageKind::socket || !network_->admit(message)) return;
        const auto event = static_cast<SocketEvent>(message->detail);
        const ConnectionId id{message->id};
        trace_ += std::to_string(clock_.now_ns() / 1000) + " " + service.name + " " +
                  socket_event_name(event) + " " + std::to_string(message->payload().size()) + "\n";
        if (event == SocketEvent::closed || event == SocketEvent::failed) ++ends_;
        if (&service == server_) {
            if (event == SocketEvent::data) (void)network_->write(id, message->payload());
        } else if (event == SocketEvent::connected) {
            (void)network_->write(id, std::string(1000, 'x'));
        } else if (event == SocketEvent::data) {
            EXPECT_EQ(message->payload(), std::string(message->payload().size(), 'x'));
            // More than the queue of a direction holds, in all.
            if (++service.answers < 10) (void)network_->write(id, std::string(60000, 'x'));
        }
    }

    VirtualClock clock_;
    SeededRandom random_;
    std::unique_ptr<Log> log_;
    std::unique_ptr<Kernel> kernel_;
    std::unique_ptr<Network> network_;
    std::vector<Service*> services_;
    Service* server_ = nullptr;
    std::string trace_;  // the scheduler's thread, and afterwards the test's
    std::atomic<int> ends_{0};
};

TEST(MemoryTransport, same_seed_gives_the_same_events) {
    World first(42), second(42);
    const std::string trace = first.trace();
    EXPECT_EQ(trace, second.trace());
    EXPECT_EQ(first.counters().frames_in.load(), 60u);
    EXPECT_EQ(first.counters().open.load(), 0u);
    // The server closed them as idle, after the clients had nothing more to say.
    EXPECT_EQ(first.counters().closed_idle.load(), 3u);
    EXPECT_GE(first.now(), 50 * kNsPerMs);
}

TEST(MemoryTransport, another_seed_gives_another_order) {
    const std::string one = World(1).trace();
    bool differs = false;
    for (std::uint64_t seed = 2; seed < 6; ++seed) differs |= World(seed).trace() != one;
    EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace perilune
