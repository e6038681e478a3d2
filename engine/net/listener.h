// Listener: an address that peers connect to.
//
// Purpose:   what Network keeps for each: its options, and the counts that its limits need.
// Threads:   the polling thread, except what is said to be constant or atomic.
// Ownership: the Network and the connections that it has accepted hold it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "net/connection.h"

namespace perilune {

struct ListenOptions {
    std::string host = "127.0.0.1";  // an address, "*" for all of both families, or "localhost"
    std::uint16_t port = 0;          // 0: the system chooses
    int backlog = 1024;
    std::uint32_t max_connections = 10'000;  // open at a time; more are reset at once
    std::uint32_t max_per_address = 0;       // from one IPv4 address or IPv6 /64; 0: no limit
    // Handshakes that are under way, over all listeners of this owner; more are reset at once.
    std::uint32_t max_handshakes = 2'500;          // 0: no limit
    std::uint32_t max_handshakes_per_address = 0;  // likewise
    bool until_upgrade = false;                    // a handshake goes on until upgrade() was called
    std::vector<Address> exempt;                   // from limits for each address
    StreamOptions stream;
    std::shared_ptr<const SecureContext> secure;  // null: plain
};

// Handshakes that are under way: TLS, encryption and, where it is asked for, WebSocket. They belong
// to nobody yet, so that they are limited apart. The polling thread.
struct Handshakes {
    std::uint32_t count = 0;
    std::unordered_map<Address, std::uint32_t, AddressHash> per_address;
};

struct Listener {
    // Constant.
    ListenerId id;
    Handle owner;
    ListenOptions options;
    Address address;
    std::shared_ptr<Handshakes> handshakes;  // of all listeners of the owner

    std::atomic<bool> closed{false};

    // The polling thread.
    int descriptor = -1;
    std::shared_ptr<const SecureContext> secure;  // for the next connection; null: plain
    bool paused = false;  // out of descriptors, or its owner's mailbox is half full
    std::uint32_t open = 0;
    std::unordered_map<Address, std::uint32_t, AddressHash> per_address;
};

}  // namespace perilune
