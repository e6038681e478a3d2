// Datagrams: plain UDP sockets of a node, IPv4 and IPv6.
//
// DESIGN
//   The polling thread receives, a batch in one system call, and posts each datagram to the
//   owner; when the owner's mailbox is half full it drops them instead, as the network itself
//   would. What a turn sends leaves at its end, a batch in one system call; what the system has
//   no room for is dropped. Nothing is ever kept for later: who needs that uses ENet.
//
// Threads:   all functions, any thread, unless they say otherwise.
// Ownership: owns the sockets, each of which dies with its owner.
// Locks:     their order is in ARCHITECTURE.md.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "net/id_table.h"
#include "net/owned_ids.h"
#include "net/transport.h"
#include "net/udp_counters.h"
#include "net/udp_event.h"
#include "net/udp_socket.h"

namespace perilune {

struct DatagramOptions {
    std::string host = "127.0.0.1";  // an address, "*" for all of both families, or "localhost"
    std::uint16_t port = 0;          // 0: the system chooses
    std::uint32_t max_datagram = kMaxDatagram;  // larger ones that come are dropped
    bool broadcast = false;                     // may send to broadcast addresses
};

class Datagrams {
  public:
    Datagrams(Kernel& kernel, Transport& transport, UdpCounters& counters);
    ~Datagrams();
    Datagrams(const Datagrams&) = delete;
    Datagrams& operator=(const Datagrams&) = delete;

    // Errors: invalid (host), exists (the port is in use), unavailable.
    Result<DatagramId> open(Handle owner, const DatagramOptions& options);
    // Sends to and receives from `peer` alone. `options`: only max_datagram and broadcast.
    Result<DatagramId> connect(Handle owner, const Address& peer, const DatagramOptions& options);
    // `to` is null for a connected socket, and must not be for others. Errors: dead,
    // invalid (the address, or its family), too_large.
    Status send(DatagramId id, std::string_view data, const Address* to);
    // What was sent before leaves. Errors: dead.
    Status close(DatagramId id);
    Result<Address> local(DatagramId id);

    // The polling thread: it is readable.
    void on_ready(DatagramId id);
    // The end of a turn, on its worker.
    void flush_turn();
    void release_owner(Handle owner);
    void close_all();

  private:
    struct Socket;
    struct Unflushed {
        const Datagrams* datagrams;
        Socket* socket;
        DatagramId id;
    };
    struct Locked {
        Socket* socket = nullptr;
        std::unique_lock<std::mutex> lock;
        explicit operator bool() const { return socket != nullptr; }
        Socket* operator->() const { return socket; }
    };

    static thread_local std::vector<Unflushed> unflushed_;

    Locked find(DatagramId id);
    Socket* take_socket();
    Result<DatagramId> publish(Socket* socket, Handle owner, const DatagramOptions& options);
    void give_back(Socket* socket);
    void deliver(DatagramId id, const Socket& socket, const Datagram& datagram);
    void flush(Socket& socket);

    Kernel& kernel_;
    Transport& transport_;
    UdpCounters& counters_;
    IdTable<DatagramId, Socket> sockets_;
    OwnedIds owned_;
    std::unique_ptr<DatagramRoom> room_;  // the polling thread

    std::mutex pool_mutex_;
    std::vector<std::unique_ptr<Socket>> all_;  // guarded by pool_mutex_
    std::vector<Socket*> free_;                 // guarded by pool_mutex_
};

}  // namespace perilune
