// Bodies of packets: BUF, or JSON in the envelope {"0": value, "1": request_id}.
//
// Purpose:   what follows the header of a packet to a Lua value and back, by the fields that are
//            declared for it. The binding is lua/lua_packet, the host's own use lua/vm_packets.
// Threads:   the thread that runs the VM of `L`.
// Ownership: nothing is kept between calls.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lua/packet_codec.h"

namespace perilune {

// Appends a body with the value on top of the stack; `request_id` 0: none. False: `fault`.
bool write_body(lua_State* L, const PacketFields& fields, std::int16_t form,
                std::uint64_t request_id, PayloadWriter& out, std::string& fault);
// Pushes the value of a body. `request_id` is set, also for one that doesn't fit; 0: none.
BodyFault read_body(lua_State* L, const PacketFields& fields, std::int16_t form,
                    std::string_view body, std::uint64_t& request_id, std::string& fault);
// The request_id of a JSON body that is not decoded otherwise; 0: none.
std::uint64_t read_request_id(std::string_view body);

}  // namespace perilune
