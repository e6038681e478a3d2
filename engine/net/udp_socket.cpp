#include "net/udp_socket.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace perilune {

namespace {

constexpr std::size_t kRoom = 64 * 1024;  // for one datagram
constexpr int kSendBatch = 64;

int or_error(int result) { return result < 0 ? -errno : result; }

}  // namespace

struct DatagramRoom::Headers {
    mmsghdr messages[kBatch];
    iovec pieces[kBatch];
    sockaddr_storage names[kBatch];
};

// Not value-initialized: that would touch two megabytes.
DatagramRoom::DatagramRoom()
    : bytes_(new char[kRoom * kBatch]), headers_(std::make_unique<Headers>()) {
    for (int i = 0; i < kBatch; ++i) {
        headers_->pieces[i] = {bytes_.get() + kRoom * static_cast<std::size_t>(i), kRoom};
    }
}

DatagramRoom::~DatagramRoom() = default;

int UdpSocket::create(bool v4) {
    const int descriptor =
        or_error(::socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (descriptor < 0) return descriptor;
    descriptor_ = descriptor;
    v6_ = !v4;
    const int off = 0;
    if (v6_) (void)::setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    return 0;
}

int UdpSocket::open(Address& address) {
    int error = create(address.is_v4());
    if (error == -EAFNOSUPPORT && address.bytes == Address().bytes) {
        // "*" on a machine without IPv6.
        address = Address::parse("0.0.0.0", address.port).value();
        error = create(true);
    }
    if (error < 0) return error;
    sockaddr_storage system;
    const unsigned size = address.to_system(system);
    if (::bind(descriptor_, reinterpret_cast<sockaddr*>(&system), size) < 0) {
        error = -errno;
        close();
        return error;
    }
    address = local();
    return 0;
}

int UdpSocket::connect(const Address& peer) {
    const int error = create(peer.is_v4());
    if (error < 0) return error;
    sockaddr_storage system;
    const unsigned size = peer.to_system(system);
    if (::connect(descriptor_, reinterpret_cast<sockaddr*>(&system), size) < 0) {
        const int failure = -errno;
        close();
        return failure;
    }
    connected_ = true;
    return 0;
}

void UdpSocket::close() {
    connected_ = false;
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

void UdpSocket::allow_broadcast() {
    const int on = 1;
    (void)::setsockopt(descriptor_, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
}

Address UdpSocket::local() const {
    sockaddr_storage system{};
    socklen_t size = sizeof system;
    (void)::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&system), &size);
    return Address::from(system);
}

// A socket of both families wants IPv4 addresses in the form of IPv6.
unsigned UdpSocket::to_system(const Address& address, sockaddr_storage& system) const {
    if (!v6_) return address.to_system(system);
    std::memset(&system, 0, sizeof system);
    auto& v6 = reinterpret_cast<sockaddr_in6&>(system);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(address.port);
    v6.sin6_scope_id = address.scope;
    std::memcpy(&v6.sin6_addr, address.bytes.data(), address.bytes.size());
    return sizeof(sockaddr_in6);
}

ssize_t UdpSocket::send(const Address& to, const iovec* pieces, int count) const {
    sockaddr_storage system;
    msghdr message{};
    if (!connected_) {
        message.msg_namelen = to_system(to, system);
        message.msg_name = &system;
    }
    message.msg_iov = const_cast<iovec*>(pieces);
    message.msg_iovlen = static_cast<std::size_t>(count);
    ssize_t sent;
    do {
        sent = ::sendmsg(descriptor_, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

int UdpSocket::send_many(std::span<const Datagram> datagrams) const {
    mmsghdr messages[kSendBatch];
    iovec pieces[kSendBatch];
    sockaddr_storage names[kSendBatch];
    const std::size_t count = std::min<std::size_t>(datagrams.size(), kSendBatch);
    for (std::size_t i = 0; i < count; ++i) {
        const std::string_view data = datagrams[i].data;
        pieces[i] = {const_cast<char*>(data.data()), data.size()};
        messages[i] = {};
        messages[i].msg_hdr.msg_iov = &pieces[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        if (connected_) continue;
        messages[i].msg_hdr.msg_namelen = to_system(datagrams[i].address, names[i]);
        messages[i].msg_hdr.msg_name = &names[i];
    }
    int sent;
    do {
        sent = ::sendmmsg(descriptor_, messages, static_cast<unsigned>(count), MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return or_error(sent);
}

ssize_t UdpSocket::receive(Address& from, char* data, std::size_t size) const {
    sockaddr_storage system{};
    iovec piece{data, size};
    msghdr message{};
    message.msg_name = &system;
    message.msg_namelen = sizeof system;
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    ssize_t count;
    do {
        count = ::recvmsg(descriptor_, &message, 0);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return -errno;
    if ((message.msg_flags & MSG_TRUNC) != 0) return -EMSGSIZE;
    from = Address::from(system);
    return count;
}

int UdpSocket::receive_many(DatagramRoom& room, std::span<const Datagram>& datagrams) const {
    DatagramRoom::Headers& headers = *room.headers_;
    for (int i = 0; i < DatagramRoom::kBatch; ++i) {
        headers.messages[i] = {};
        msghdr& header = headers.messages[i].msg_hdr;
        header.msg_name = &headers.names[i];
        header.msg_namelen = sizeof headers.names[i];
        header.msg_iov = &headers.pieces[i];
        header.msg_iovlen = 1;
    }
    int count;
    do {
        count = ::recvmmsg(descriptor_, headers.messages, DatagramRoom::kBatch, 0, nullptr);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return -errno;
    for (int i = 0; i < count; ++i) {
        const mmsghdr& message = headers.messages[i];
        Datagram& datagram = room.datagrams_[i];
        datagram.address = Address::from(headers.names[i]);
        datagram.data = {static_cast<const char*>(headers.pieces[i].iov_base), message.msg_len};
        datagram.truncated = (message.msg_hdr.msg_flags & MSG_TRUNC) != 0;
    }
    datagrams = {room.datagrams_, static_cast<std::size_t>(count)};
    return count;
}

}  // namespace perilune
