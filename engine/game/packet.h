// Packet: the header of the client protocol's packets, and what a broadcast is wrapped in.
//
//   packet     i16 stype | i16 ctype | u32 utag | i16 form | body    all little-endian
//   broadcast  u16 length | packet | u16 count | count x u32 uid     the body of such a packet
//
// Purpose:   the bytes that gateways look at; bodies are lua/lua_packet's.
// Threads:   pure functions.
// Ownership: views of the caller's bytes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "perilune/status.h"

namespace perilune {

inline constexpr std::size_t kPacketHeader = 10;
// A TCP frame counts its own two bytes in a u16.
inline constexpr std::size_t kMaxPacket = 65535 - 2;
inline constexpr std::size_t kMaxPacketBody = kMaxPacket - kPacketHeader;

inline constexpr std::int16_t kJsonForm = 1;
inline constexpr std::int16_t kBufForm = 2;
inline constexpr std::int16_t kDisconnected = 10000;  // ctype: a user is gone, gateway to service
inline constexpr std::int16_t kBroadcast = 10001;  // stype and ctype: for many, service to gateway
inline constexpr std::uint32_t kFirstKey = 1u << 31;  // utags from here on are keys, below are uids

static_assert(std::endian::native == std::endian::little, "numbers are copied as they are");

// Which way a message of MessageKind::packet goes.
enum class PacketWay : std::uint8_t {
    from_client,  // gateway to service; the session's uid, or before login its key, is the utag
    from_client_by_udp,    // the same of what may be somebody else's datagram
    to_client,             // service to gateway; `id` is 0 of what is pushed
    to_client_unreliable,  // the same of what may be lost
};

inline bool is_to_client(std::uint8_t way) {
    return way >= static_cast<std::uint8_t>(PacketWay::to_client);
}

struct PacketHeader {
    std::int16_t stype = 0;
    std::int16_t ctype = 0;
    std::uint32_t utag = 0;
    std::int16_t form = 0;
};

template <typename T>
T load_little(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Nothing for a packet that is shorter than its header.
inline std::optional<PacketHeader> read_header(std::string_view packet) {
    if (packet.size() < kPacketHeader) return std::nullopt;
    const char* from = packet.data();
    return PacketHeader{load_little<std::int16_t>(from), load_little<std::int16_t>(from + 2),
                        load_little<std::uint32_t>(from + 4), load_little<std::int16_t>(from + 8)};
}

// Writes kPacketHeader bytes.
inline void write_header(char* packet, const PacketHeader& header) {
    std::memcpy(packet, &header.stype, 2);
    std::memcpy(packet + 2, &header.ctype, 2);
    std::memcpy(packet + 4, &header.utag, 4);
    std::memcpy(packet + 8, &header.form, 2);
}

// Of a packet that has a header.
inline void write_utag(char* packet, std::uint32_t utag) { std::memcpy(packet + 4, &utag, 4); }

struct Broadcast {
    std::string_view packet;  // it has a header
    std::string_view uids;

    std::size_t count() const { return uids.size() / 4; }
    std::uint32_t uid(std::size_t index) const {
        return load_little<std::uint32_t>(uids.data() + 4 * index);
    }
};

// Takes the body of a broadcast apart. Errors: invalid.
Result<Broadcast> read_broadcast(std::string_view body);

}  // namespace perilune
