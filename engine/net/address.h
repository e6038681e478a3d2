// Address: an IPv4 or IPv6 address with a port.
//
// Purpose:   one value for both families, so that nothing above the transport asks which.
// Threads:   a value.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "perilune/status.h"

struct sockaddr_storage;

namespace perilune {

struct Address {
    std::array<std::uint8_t, 16> bytes{};  // IPv6; an IPv4 address as ::ffff:a.b.c.d
    std::uint16_t port = 0;
    std::uint32_t scope = 0;  // of a link-local IPv6 address

    // `host` is a number of either family ("[::1]" too), "*" (all, both families), or
    // "localhost" (127.0.0.1). Errors: invalid (any other name: those need a resolver).
    static Result<Address> parse(std::string_view host, std::uint16_t port);
    static Address from(const sockaddr_storage& system);

    bool is_v4() const;
    // What a limit for each client counts by: an IPv4 address, or the /64 of an IPv6 address.
    Address client_key() const;

    std::string host() const;  // "127.0.0.1", "::1"
    std::string text() const;  // "127.0.0.1:80", "[::1]:80"

    // Writes the system's form and returns its size.
    unsigned to_system(sockaddr_storage& system) const;

    friend bool operator==(const Address&, const Address&) = default;
};

struct AddressHash {
    std::size_t operator()(const Address& address) const noexcept {
        return std::hash<std::string_view>{}(std::string_view(
                   reinterpret_cast<const char*>(address.bytes.data()), address.bytes.size())) *
                   31 +
               address.port;
    }
};

}  // namespace perilune
