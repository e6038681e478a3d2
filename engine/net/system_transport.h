// SystemTransport: TCP of the machine.
//
// Purpose:   sockets in an epoll set of their own, whose readiness asio's context waits for.
// Threads:   as Transport.
// Ownership: owns the set; must go before the poller.
//
// Why a set of our own: asio reads either into a buffer that each idle connection would have
// to hold, or after async_wait, which costs an epoll_ctl for each read (0.84 us of about 12 for
// an echo). One wait on the set costs that once for all connections that are ready together,
// arms reading and writing once for ever, and needs no memory for each operation.
#pragma once

#include <memory>

#include "core/poller.h"
#include "net/transport.h"

namespace perilune {

class SystemTransport final : public Transport {
  public:
    explicit SystemTransport(Poller& poller);
    ~SystemTransport() override;

    Status start(ReadyHandler handler) override;
    void stop() override;
    void post(std::function<void()> task) override;
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
    struct State;
    std::shared_ptr<State> state_;  // shared with what waits in the context
};

}  // namespace perilune
