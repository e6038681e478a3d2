// SystemTransport: TCP of the machine.
//
// Purpose:   sockets in a set of the poller (core/poller_set.h).
// Threads:   as Transport.
// Ownership: must go before the poller.
#pragma once

#include "core/poller_set.h"
#include "net/transport.h"

namespace perilune {

class SystemTransport final : public Transport {
  public:
    explicit SystemTransport(Poller& poller) : set_(poller) {}

    Status start(ReadyHandler handler) override;
    void stop() override { set_.stop(); }
    void post(std::function<void()> task) override { set_.post(std::move(task)); }
    int listen(Address& address, int backlog) override;
    int accept(int listener, Address& peer) override;
    int watch_listener(int listener, std::uint64_t token, bool wanted) override;
    int connect(const Address& peer) override;
    int connect_result(int descriptor) override;
    int watch(int descriptor, std::uint64_t token) override;
    void set_no_delay(int descriptor, bool on) override;
    ssize_t receive(int descriptor, char* data, std::size_t size) override;
    ssize_t send(int descriptor, const iovec* pieces, int count) override;
    void end_sending(int descriptor) override;
    void close(int descriptor, bool reset) override;
    Address local_address(int descriptor) override;

  private:
    PollerSet set_;
};

}  // namespace perilune
