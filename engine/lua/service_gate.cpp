#include "lua/service_gate.h"

#include "net/network.h"
#include "net/udp.h"

namespace perilune {

namespace {

// As scripts spell it.
const char* verdict_name(Gate::Verdict verdict) {
    using Verdict = Gate::Verdict;
    switch (verdict) {
        case Verdict::too_fast: return "too_fast";
        case Verdict::malformed: return "malformed";
        case Verdict::itself: return "itself";
        case Verdict::full: return "full";
        case Verdict::reserved: return "reserved";
        case Verdict::login: return "login";
        case Verdict::not_logged_in: return "not_logged_in";
        case Verdict::unknown_service: return "unknown_service";
        default: return "";
    }
}

}  // namespace

ServiceGate::ServiceGate(Kernel& kernel, Network& network, Udp* udp, Handle self,
                         const GateOptions& options)
    : kernel_(kernel), network_(network), udp_(udp), self_(self), gate_(options) {}

void ServiceGate::add_route(std::int16_t stype, std::string_view name) {
    const std::size_t route = gate_.add_route(stype);
    if (route == routes_.size()) routes_.emplace_back();
    routes_[route] = {stype, std::string(name), {}};
}

// --- from clients ---

ServiceGate::Taken ServiceGate::take(MessagePtr& message, Unusual& unusual) {
    const bool by_udp = message->kind == MessageKind::datagram;
    const std::uint64_t path = by_udp ? message->id | kUdpPath : message->id;
    const Gate::Decision decision = gate_.decide(path, message->payload(), now_ns());
    if (decision.verdict == Gate::Verdict::stranger) return Taken::stranger;
    if (by_udp) ++counters_.udp_packets_in;
    if (decision.verdict == Gate::Verdict::ignored) return Taken::done;
    unusual = {decision.session->key, follow(decision, message), by_udp};
    return unusual.why == nullptr ? Taken::done : Taken::unusual;
}

const char* ServiceGate::take_again(Gate::Session& session, std::string_view packet) {
    const Gate::Decision decision = gate_.decide_again(session, packet);
    MessagePtr message = make_message(MessageKind::packet, {}, self_, 0);
    message->set_payload(packet);
    return follow(decision, message);
}

// Sends the packet on its way, or says why not; then `message` is left to the caller.
const char* ServiceGate::follow(const Gate::Decision& decision, MessagePtr& message) {
    if (decision.verdict != Gate::Verdict::forward) return verdict_name(decision.verdict);
    Gate::Session& session = *decision.session;
    write_utag(message->own_data(), Gate::utag_of(session));
    message->kind = MessageKind::packet;
    message->detail = static_cast<std::uint8_t>(
        decision.by_side_path ? PacketWay::from_client_by_udp : PacketWay::from_client);
    message->from = self_;
    message->session = 0;
    message->id = session.key;
    const PostResult result = post(routes_[decision.route], message);
    if (result != PostResult::ok) return result == PostResult::dead ? "dead" : "overloaded";
    gate_.forwarded(session, decision.route);
    ++counters_.forwarded;
    return nullptr;
}

PostResult ServiceGate::post(Route& route, MessagePtr& message) {
    if (route.handle) {
        message->to = route.handle;
        const PostResult result = kernel_.post(message);
        if (result != PostResult::dead) return result;
    }
    // Another may have the name by now.
    route.handle = kernel_.registry().find_name(route.name);
    message->to = route.handle;
    return kernel_.post(message);
}

// --- to clients ---

// Of what a service has sent.
void ServiceGate::complain(const char* text) {
    const std::string name = kernel_.registry().name_of(self_);
    kernel_.log().error(name.c_str(), "a service sent what can't be delivered: %s", text);
}

void ServiceGate::write_once(const Gate::Session& session, std::string_view packet) {
    if (network_.write(ConnectionId{session.path}, packet).ok()) ++counters_.packets_out;
}

bool ServiceGate::write(Gate::Session& session, std::string_view packet) {
    const Gate::Fate fate = gate_.remember(session, packet);
    if (fate == Gate::Fate::write) write_once(session, packet);
    return fate != Gate::Fate::lost;
}

bool ServiceGate::open_udp(Gate::Session& session, std::uint64_t peer) {
    return udp_ != nullptr && gate_.open_side_path(session, peer | kUdpPath);
}

// What may be lost: to the player's peer where there is one and it fits. Nobody waits for it who
// isn't here.
ServiceGate::Sent ServiceGate::write_unreliable(const Gate::Session& session,
                                                std::string_view packet) {
    if (session.path == 0) return Sent::dropped;
    if (session.side_path == 0) return Sent::impossible;
    const EnetPeerId peer{session.side_path & ~kUdpPath};
    const Status sent =
        packet.size() > kMaxUdpPacket
            ? Status::error(StatusCode::too_large, "too large")
            : udp_->enet().write(peer, packet, kUnreliableChannel, EnetMode::unreliable);
    if (sent.ok()) {
        ++counters_.udp_packets_out;
        return Sent::done;
    }
    if (sent.code() == StatusCode::overloaded) return Sent::dropped;
    ++counters_.udp_fallbacks;
    return Sent::impossible;
}

void ServiceGate::write_again(Gate::Session& session, std::uint64_t number) {
    if (session.ring == nullptr) return;
    session.ring->each_from(number, [&](std::string_view packet) { write_once(session, packet); });
}

const std::vector<ServiceGate::Unusual>& ServiceGate::deliver(char* packet, std::size_t size,
                                                              std::uint32_t key, bool unreliable) {
    unusual_.clear();
    const std::string_view data(packet, size);
    const auto header = read_header(data);
    if (!header) {
        complain("packet is shorter than its header");
    } else if (header->stype == kBroadcast && header->ctype == kBroadcast) {
        deliver_broadcast(data.substr(kPacketHeader), unreliable);
    } else if (Gate::Session* session = gate_.receiver(*header, key)) {
        write_utag(packet, 0);
        if (unreliable && write_unreliable(*session, data) != Sent::impossible) return unusual_;
        if (header->utag >= kFirstKey && gate_.is_login(*header)) {
            unusual_.push_back({session->key, "login_reply"});
        } else if (!write(*session, data)) {
            unusual_.push_back({session->key, nullptr});
        }
    }
    return unusual_;
}

void ServiceGate::deliver_broadcast(std::string_view body, bool unreliable) {
    const Result<Broadcast> broadcast = read_broadcast(body);
    if (!broadcast.ok()) return complain(broadcast.status().message());
    std::string packet(broadcast.value().packet);
    write_utag(packet.data(), 0);
    receivers_.clear();
    for (std::size_t i = 0; i < broadcast.value().count(); ++i) {
        PacketHeader to;
        to.utag = broadcast.value().uid(i);
        Gate::Session* session = gate_.receiver(to, 0);
        if (session == nullptr) continue;
        if (unreliable && write_unreliable(*session, packet) != Sent::impossible) continue;
        const Gate::Fate fate = gate_.remember(*session, packet);
        if (fate == Gate::Fate::write) receivers_.push_back(ConnectionId{session->path});
        if (fate == Gate::Fate::lost) unusual_.push_back({session->key, nullptr});
    }
    counters_.packets_out += network_.write_many(receivers_, packet);
}

const std::vector<std::uint32_t>& ServiceGate::trim() { return lost_ = gate_.trim(); }

}  // namespace perilune
