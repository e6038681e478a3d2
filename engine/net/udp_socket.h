// UdpSocket: datagrams of the machine.
//
// Purpose:   the system calls for UDP, in batches where that saves some; nothing else calls them.
// Threads:   one thread at a time opens and closes; send() and receive() at once are fine.
// Ownership: owns its descriptor. All calls that can fail return -errno.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <memory>
#include <span>
#include <string_view>

#include "net/address.h"

namespace perilune {

inline constexpr std::size_t kMaxDatagram = 65'507;  // what IPv4 can carry

// One datagram, on its way in or out.
struct Datagram {
    Address address;  // sender or receiver; ignored when a connected socket sends
    std::string_view data;
    bool truncated = false;  // it was larger than the room for it
};

// Room for a batch that is received. Its pages cost nothing before a datagram fills them.
class DatagramRoom {
  public:
    static constexpr int kBatch = 32;

    DatagramRoom();
    ~DatagramRoom();

  private:
    friend class UdpSocket;
    struct Headers;
    std::unique_ptr<char[]> bytes_;
    std::unique_ptr<Headers> headers_;
    Datagram datagrams_[kBatch];
};

class UdpSocket {
  public:
    UdpSocket() = default;
    ~UdpSocket() { close(); }
    UdpSocket(const UdpSocket&) = delete;
    UdpSocket& operator=(const UdpSocket&) = delete;

    // Binds to `address`, which becomes the one it has. 0 or -errno.
    int open(Address& address);
    // Opens at any port; receives from `peer` alone, and hears when nobody is there.
    int connect(const Address& peer);
    void close();
    int descriptor() const { return descriptor_; }
    bool is_open() const { return descriptor_ >= 0; }
    bool connected() const { return connected_; }
    // Whether a datagram to `address` can leave here.
    bool reaches(const Address& address) const { return v6_ || address.is_v4(); }
    void allow_broadcast();
    Address local() const;

    // The bytes sent, or -errno.
    ssize_t send(const Address& to, const iovec* pieces, int count) const;
    // How many were handed to the system, or why not even the first.
    int send_many(std::span<const Datagram> datagrams) const;
    // The next datagram's size; -EMSGSIZE: it was larger than `size` and is gone.
    ssize_t receive(Address& from, char* data, std::size_t size) const;
    // What waits, a batch at most; valid until the next call with that room.
    int receive_many(DatagramRoom& room, std::span<const Datagram>& datagrams) const;

  private:
    unsigned to_system(const Address& address, sockaddr_storage& system) const;
    int create(bool v4);

    int descriptor_ = -1;
    bool v6_ = false;  // of both families
    bool connected_ = false;
};

}  // namespace perilune
