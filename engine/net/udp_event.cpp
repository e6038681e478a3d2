#include "net/udp_event.h"

namespace perilune {

const char* udp_event_name(UdpEvent event) {
    switch (event) {
        case UdpEvent::datagram: return "datagram";
        case UdpEvent::opened: return "opened";
        case UdpEvent::connected: return "connected";
        case UdpEvent::failed: return "failed";
        case UdpEvent::data: return "data";
        case UdpEvent::closed: return "closed";
    }
    return "unknown";
}

PostResult post_udp_event(Kernel& kernel, Handle to, UdpEvent event, std::uint64_t id,
                          std::uint64_t session, std::string_view first, std::string_view second) {
    MessagePtr message = make_message(MessageKind::datagram, to, {}, session);
    message->id = id;
    message->detail = static_cast<std::uint8_t>(event);
    PayloadWriter out = message->writer();
    out.append(first.data(), first.size());
    out.append(second.data(), second.size());
    message->finish(out);
    return kernel.post(message);
}

OwnerRoom owner_room(Kernel& kernel, Handle owner) {
    Registry::Slot* slot = kernel.registry().find(owner);
    if (slot == nullptr) return OwnerRoom::dead;
    const std::uint32_t own_limit = slot->max_messages.load(std::memory_order_relaxed);
    const bool full = slot->cell.load()->mailbox.half_full() ||
                      (own_limit != 0 && slot->load.count() * 2 >= own_limit);
    return full ? OwnerRoom::full : OwnerRoom::room;
}

}  // namespace perilune
