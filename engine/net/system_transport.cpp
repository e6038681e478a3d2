#include "net/system_transport.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace perilune {

namespace {

int or_error(int result) { return result < 0 ? -errno : result; }

int open_socket(const Address& address) {
    const int family = address.is_v4() ? AF_INET : AF_INET6;
    return or_error(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

void set_option(int descriptor, int level, int option, int value) {
    (void)::setsockopt(descriptor, level, option, &value, sizeof value);
}

}  // namespace

Status SystemTransport::start(ReadyHandler handler) {
    return set_.start([handler = std::move(handler)](std::uint64_t token, std::uint32_t events) {
        std::uint32_t ready = 0;
        if (events & EPOLLIN) ready |= kReadable;
        if (events & EPOLLOUT) ready |= kWritable;
        if (events & EPOLLRDHUP) ready |= kReadable | kEnded;
        if (events & (EPOLLERR | EPOLLHUP)) ready |= kBroken;
        handler(token, ready);
    });
}

int SystemTransport::listen(Address& address, int backlog) {
    int descriptor = open_socket(address);
    if (descriptor == -EAFNOSUPPORT && address.bytes == Address().bytes) {
        // "*" on a machine without IPv6.
        address = Address::parse("0.0.0.0", address.port).value();
        descriptor = open_socket(address);
    }
    if (descriptor < 0) return descriptor;
    set_option(descriptor, SOL_SOCKET, SO_REUSEADDR, 1);
    if (!address.is_v4()) {
        // "*" means both families, "::" too; any other address is of one alone.
        set_option(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    }
    sockaddr_storage system;
    const unsigned size = address.to_system(system);
    if (::bind(descriptor, reinterpret_cast<sockaddr*>(&system), size) < 0 ||
        ::listen(descriptor, backlog) < 0) {
        const int error = -errno;
        ::close(descriptor);
        return error;
    }
    address = local_address(descriptor);
    return descriptor;
}

int SystemTransport::accept(int listener, Address& peer) {
    sockaddr_storage system;
    socklen_t size = sizeof system;
    const int descriptor = or_error(::accept4(listener, reinterpret_cast<sockaddr*>(&system), &size,
                                              SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (descriptor >= 0) peer = Address::from(system);
    return descriptor;
}

int SystemTransport::watch_listener(int listener, std::uint64_t token, bool wanted) {
    const std::uint32_t events = wanted ? static_cast<std::uint32_t>(EPOLLIN) : 0;
    if (set_.change(listener, events, token) == 0) return 0;
    return set_.add(listener, events, token);
}

int SystemTransport::connect(const Address& peer) {
    const int descriptor = open_socket(peer);
    if (descriptor < 0) return descriptor;
    sockaddr_storage system;
    const unsigned size = peer.to_system(system);
    if (::connect(descriptor, reinterpret_cast<sockaddr*>(&system), size) < 0 &&
        errno != EINPROGRESS) {
        const int error = -errno;
        ::close(descriptor);
        return error;
    }
    return descriptor;
}

int SystemTransport::connect_result(int descriptor) {
    int error = 0;
    socklen_t size = sizeof error;
    if (::getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size) < 0) return -errno;
    return -error;
}

int SystemTransport::watch(int descriptor, std::uint64_t token) {
    return set_.add(descriptor, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, token);
}

void SystemTransport::set_no_delay(int descriptor, bool on) {
    set_option(descriptor, IPPROTO_TCP, TCP_NODELAY, on ? 1 : 0);
}

ssize_t SystemTransport::receive(int descriptor, char* data, std::size_t size) {
    ssize_t count;
    do {
        count = ::recv(descriptor, data, size, 0);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? -errno : count;
}

ssize_t SystemTransport::send(int descriptor, const iovec* pieces, int count) {
    ssize_t sent;
    do {
        if (count == 1) {
            sent = ::send(descriptor, pieces->iov_base, pieces->iov_len, MSG_NOSIGNAL);
        } else {
            msghdr message{};
            message.msg_iov = const_cast<iovec*>(pieces);
            message.msg_iovlen = static_cast<std::size_t>(count);
            sent = ::sendmsg(descriptor, &message, MSG_NOSIGNAL);
        }
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

void SystemTransport::end_sending(int descriptor) { (void)::shutdown(descriptor, SHUT_WR); }

void SystemTransport::close(int descriptor, bool reset) {
    if (reset) {
        const linger now{1, 0};
        (void)::setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    ::close(descriptor);
}

Address SystemTransport::local_address(int descriptor) {
    sockaddr_storage system{};
    socklen_t size = sizeof system;
    (void)::getsockname(descriptor, reinterpret_cast<sockaddr*>(&system), &size);
    return Address::from(system);
}

}  // namespace perilune
