#include "game/packet.h"

namespace perilune {

namespace {

Status malformed(const char* text) { return Status::error(StatusCode::invalid, "%s", text); }

}  // namespace

Result<Broadcast> read_broadcast(std::string_view body) {
    if (body.size() < 2) return malformed("broadcast is cut off");
    const std::size_t size = load_little<std::uint16_t>(body.data());
    if (size < kPacketHeader) return malformed("packet is shorter than its header");
    if (body.size() < 2 + size + 2) return malformed("broadcast is cut off");
    const std::size_t count = load_little<std::uint16_t>(body.data() + 2 + size);
    if (body.size() != 4 + size + 4 * count) return malformed("broadcast has a wrong length");
    return Broadcast{body.substr(2, size), body.substr(4 + size)};
}

}  // namespace perilune
