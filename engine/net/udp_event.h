// UdpEvent: what services are told about datagrams and ENet peers.
//
// Purpose:   the events, and how they are packed into messages of MessageKind::datagram.
// Threads:   values; post_udp_event() from any thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/kernel.h"
#include "net/address.h"

namespace perilune {

using DatagramId = Id<struct DatagramTag>;
using EnetHostId = Id<struct EnetHostTag>;
using EnetPeerId = Id<struct EnetPeerTag>;

// Tokens of the UDP transport: an id, and whether it is an ENet host's.
inline constexpr std::uint64_t kEnetToken = std::uint64_t{1} << 62;

// The `detail` of the message. Message::id is the socket or peer, except where it says otherwise.
enum class UdpEvent : std::uint8_t {
    datagram,  // one came. Payload: PackedAddress of the sender | its bytes
    // Of ENet.
    opened,     // a peer. `session`: the host; payload: u32 connect data | address as text
    connected,  // connect() succeeded. Payload: address as text
    failed,     // connect() failed; the last event. Payload: why
    data,       // `session`: the channel. Payload: the packet
    closed,     // the last event. `session`: what the other end said; payload: the reason
};

inline bool is_enet_event(UdpEvent event) { return event >= UdpEvent::opened; }
const char* udp_event_name(UdpEvent event);

// An address as bytes of a payload.
struct PackedAddress {
    std::uint8_t bytes[16];
    std::uint32_t scope;
    std::uint16_t port;
    std::uint16_t unused;

    static PackedAddress from(const Address& address) {
        PackedAddress packed{};
        std::memcpy(packed.bytes, address.bytes.data(), sizeof packed.bytes);
        packed.scope = address.scope;
        packed.port = address.port;
        return packed;
    }
    // `bytes` holds one at least.
    static Address unpack(const char* data) {
        PackedAddress packed;
        std::memcpy(&packed, data, sizeof packed);
        Address address;
        std::memcpy(address.bytes.data(), packed.bytes, sizeof packed.bytes);
        address.scope = packed.scope;
        address.port = packed.port;
        return address;
    }
};
static_assert(sizeof(PackedAddress) == 24);

// `first` and `second` become the payload. Returns what Kernel::post() says.
PostResult post_udp_event(Kernel& kernel, Handle to, UdpEvent event, std::uint64_t id,
                          std::uint64_t session, std::string_view first,
                          std::string_view second = {});

// Whether the service can be given more: sockets stop at half of its mailbox, so that calls and
// replies still find room.
enum class OwnerRoom : std::uint8_t { room, full, dead };
OwnerRoom owner_room(Kernel& kernel, Handle owner);

}  // namespace perilune
