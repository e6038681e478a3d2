#include "net/udp.h"

#include "net/system_transport.h"

namespace perilune {

// The service that timers are for.
class Udp::Helper final : public Actor {
  public:
    explicit Helper(Enet& enet) : enet_(enet) {}
    void receive(MessagePtr message) override {
        if (message->kind == MessageKind::timer) enet_.on_timer(EnetHostId{message->session});
    }

  private:
    Enet& enet_;
};

Udp::Udp(Kernel& kernel)
    : kernel_(kernel),
      transport_(std::make_unique<SystemTransport>(kernel.poller())),
      datagrams_(kernel, *transport_, counters_),
      enet_(kernel, *transport_, counters_) {}

Udp::~Udp() {
    transport_->stop();
    if (timers_ != nullptr) kernel_.timers().cancel_all(*timers_);
}

Status Udp::start() {
    if (kernel_.seeded()) return {};
    const Status started =
        transport_->start([this](std::uint64_t token, std::uint32_t) { on_ready(token); });
    if (!started.ok()) return started;
    kernel_.add_on_turn_end([this] {
        datagrams_.flush_turn();
        enet_.flush_turn();
    });
    ActorCell* cell = kernel_.create_cell(std::make_unique<Helper>(enet_));
    const Result<Handle> handle = kernel_.add_service(cell, nullptr);
    if (!handle.ok()) return handle.status();
    timers_ = std::make_unique<OwnerTimers>(handle.value());
    enet_.set_timers(timers_.get());
    kernel_.launch(cell);
    return {};
}

void Udp::begin_stop() {
    stopping_.store(true);
    if (kernel_.seeded()) return;
    datagrams_.close_all();
    enet_.begin_stop();
}

Status Udp::usable() const {
    if (kernel_.options().seeded) {
        return Status::error(StatusCode::unsupported,
                             "a seeded node has no UDP: what the network does can't be repeated");
    }
    if (stopping_.load()) return Status::error(StatusCode::unavailable, "the node is stopping");
    return {};
}

void Udp::on_ready(std::uint64_t token) {
    if ((token & kEnetToken) != 0) {
        enet_.on_ready(EnetHostId{token & ~kEnetToken});
    } else {
        datagrams_.on_ready(DatagramId{token});
    }
}

void Udp::release_owner(Handle owner) {
    if (kernel_.seeded()) return;
    datagrams_.release_owner(owner);
    enet_.release_owner(owner);
}

}  // namespace perilune
