#include "net/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace perilune {

namespace {

constexpr std::array<std::uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

Result<Address> Address::parse(std::string_view host, std::uint16_t port) {
    if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
        host = host.substr(1, host.size() - 2);
    }
    Address address;
    address.port = port;
    if (host == "*") return address;
    std::string text(host == "localhost" ? "127.0.0.1" : host);
    std::copy(kMapped.begin(), kMapped.end(), address.bytes.begin());
    if (inet_pton(AF_INET, text.c_str(), address.bytes.data() + kMapped.size()) == 1) {
        return address;
    }
    if (const std::size_t percent = text.find('%'); percent != std::string::npos) {
        address.scope = if_nametoindex(text.c_str() + percent + 1);
        text.resize(percent);
    }
    if (inet_pton(AF_INET6, text.c_str(), address.bytes.data()) == 1) return address;
    return Status::error(StatusCode::invalid, "\"%.*s\" is not an IPv4 or IPv6 address",
                         static_cast<int>(std::min<std::size_t>(host.size(), 100)), host.data());
}

Address Address::from(const sockaddr_storage& system) {
    Address address;
    if (system.ss_family == AF_INET) {
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(system);
        std::copy(kMapped.begin(), kMapped.end(), address.bytes.begin());
        std::memcpy(address.bytes.data() + kMapped.size(), &v4.sin_addr, 4);
        address.port = ntohs(v4.sin_port);
    } else if (system.ss_family == AF_INET6) {
        const auto& v6 = reinterpret_cast<const sockaddr_in6&>(system);
        std::memcpy(address.bytes.data(), &v6.sin6_addr, 16);
        address.port = ntohs(v6.sin6_port);
        address.scope = v6.sin6_scope_id;
    }
    return address;
}

bool Address::is_v4() const { return std::equal(kMapped.begin(), kMapped.end(), bytes.begin()); }

Address Address::client_key() const {
    Address key;
    key.bytes = bytes;
    if (!is_v4()) std::fill(key.bytes.begin() + 8, key.bytes.end(), std::uint8_t{0});
    return key;
}

std::string Address::host() const {
    char text[INET6_ADDRSTRLEN] = {};
    if (is_v4()) {
        inet_ntop(AF_INET, bytes.data() + kMapped.size(), text, sizeof text);
    } else {
        inet_ntop(AF_INET6, bytes.data(), text, sizeof text);
    }
    return text;
}

std::string Address::text() const {
    const std::string number = std::to_string(port);
    return is_v4() ? host() + ":" + number : "[" + host() + "]:" + number;
}

unsigned Address::to_system(sockaddr_storage& system) const {
    std::memset(&system, 0, sizeof system);
    if (is_v4()) {
        auto& v4 = reinterpret_cast<sockaddr_in&>(system);
        v4.sin_family = AF_INET;
        v4.sin_port = htons(port);
        std::memcpy(&v4.sin_addr, bytes.data() + kMapped.size(), 4);
        return sizeof(sockaddr_in);
    }
    auto& v6 = reinterpret_cast<sockaddr_in6&>(system);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    v6.sin6_scope_id = scope;
    std::memcpy(&v6.sin6_addr, bytes.data(), 16);
    return sizeof(sockaddr_in6);
}

}  // namespace perilune
