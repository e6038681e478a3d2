#include "game/gate.h"

#include <algorithm>
#include <utility>

namespace perilune {

Gate::Gate(const GateOptions& options) : options_(options), addresses_(options.address_rate) {}

Gate::~Gate() = default;

// --- sessions ---

Gate::Session* Gate::add(std::uint32_t key, std::uint64_t path, std::string_view address,
                         std::int64_t now_ns) {
    if (by_key_.count(key) != 0 || by_path_.count(path) != 0) return nullptr;
    auto session = std::make_unique<Session>(key, path, options_.rate, now_ns);
    if (!address.empty()) session->address = &addresses_.enter(address, now_ns);
    by_path_.emplace(path, session.get());
    return by_key_.emplace(key, std::move(session)).first->second.get();
}

void Gate::remove(Session& session, std::int64_t now_ns) {
    (void)leave(session);
    forget_ring(session);
    if (session.address != nullptr) addresses_.leave(*session.address, now_ns);
    by_path_.erase(session.path);
    by_key_.erase(session.key);
}

Gate::Session* Gate::by_key(std::uint32_t key) const {
    const auto found = by_key_.find(key);
    return found == by_key_.end() ? nullptr : found->second.get();
}

Gate::Session* Gate::by_uid(std::uint32_t uid) const {
    const auto found = by_uid_.find(uid);
    return found == by_uid_.end() ? nullptr : found->second;
}

Gate::Session* Gate::by_path(std::uint64_t path) const {
    const auto found = by_path_.find(path);
    return found == by_path_.end() ? nullptr : found->second;
}

bool Gate::enter(Session& session, std::uint32_t uid) {
    if (session.uid != 0 || !by_uid_.try_emplace(uid, &session).second) return false;
    session.uid = uid;
    return true;
}

std::vector<std::size_t> Gate::leave(Session& session) {
    if (session.uid == 0) return {};
    close_side_path(session);
    by_uid_.erase(std::exchange(session.uid, 0));
    return std::exchange(session.seen, {});
}

bool Gate::open_side_path(Session& session, std::uint64_t path) {
    if (session.uid == 0 || session.path == 0 || session.closing || by_path_.count(path) != 0) {
        return false;
    }
    close_side_path(session);
    session.side_path = path;
    by_path_.emplace(path, &session);
    return true;
}

void Gate::close_side_path(Session& session) {
    if (session.side_path != 0) by_path_.erase(std::exchange(session.side_path, 0));
}

// --- packets of clients ---

Gate::Decision Gate::decide(std::uint64_t path, std::string_view packet, std::int64_t now_ns) {
    Session* session = by_path(path);
    if (session == nullptr) return {Verdict::stranger};
    const bool by_side_path = path == session->side_path;
    if (session->closing) return {Verdict::ignored, session, by_side_path};
    session->heard_ns = now_ns;
    ++counters_.packets_in;
    if (is_too_fast(*session, now_ns)) return {Verdict::too_fast, session, by_side_path};
    Decision decision = decide_again(*session, packet);
    decision.by_side_path = by_side_path;
    return decision;
}

Gate::Decision Gate::decide_again(Session& session, std::string_view packet) {
    Decision decision{Verdict::forward, &session};
    decision.verdict = judge(session, packet, decision.route);
    return decision;
}

Gate::Verdict Gate::judge(Session& session, std::string_view packet, std::size_t& route) {
    const auto header = read_header(packet);
    if (!header || (header->form != kJsonForm && header->form != kBufForm)) {
        return Verdict::malformed;
    }
    session.form = header->form;
    if (header->stype == 0) return Verdict::itself;
    if (session.resumes_only) return Verdict::full;
    if (is_reserved(*header)) return Verdict::reserved;
    if (is_login(*header)) return Verdict::login;
    if (session.uid == 0) return Verdict::not_logged_in;
    const auto found = routes_.find(header->stype);
    if (found == routes_.end()) return Verdict::unknown_service;
    route = found->second;
    return Verdict::forward;
}

bool Gate::is_too_fast(Session& session, std::int64_t now_ns) {
    if (!session.bucket.take(options_.rate, now_ns)) return true;
    return session.address != nullptr && !addresses_.take(*session.address, now_ns);
}

bool Gate::is_reserved(const PacketHeader& header) {
    const auto is_internal = [](std::int16_t number) {
        return number < 0 || number == kDisconnected || number == kBroadcast;
    };
    return is_internal(header.stype) || is_internal(header.ctype);
}

void Gate::forwarded(Session& session, std::size_t route) {
    if (session.uid == 0) return;
    std::vector<std::size_t>& seen = session.seen;
    if (std::find(seen.begin(), seen.end(), route) == seen.end()) seen.push_back(route);
}

// --- packets for clients ---

Gate::Session* Gate::receiver(const PacketHeader& header, std::uint32_t key) {
    // A login's reply has the key as utag, also when the player is logged in by now.
    Session* session = header.utag >= kFirstKey ? by_key(header.utag) : by_uid(header.utag);
    if (session != nullptr && !session->closing && (key == 0 || session->key == key)) {
        return session;
    }
    ++counters_.undeliverable;
    return nullptr;
}

Gate::Fate Gate::remember(Session& session, std::string_view packet) {
    if (session.ring != nullptr) push(*session.ring, packet);
    if (session.path != 0) return Fate::write;
    return is_lost(session) ? Fate::lost : Fate::kept;
}

// --- going on by another path ---

void Gate::number_packets(Session& session) {
    forget_ring(session);
    session.ring = std::make_unique<PacketRing>();
    ++rings_;
}

void Gate::forget_ring(Session& session) {
    if (session.ring == nullptr) return;
    --rings_;
    ring_bytes_ -= session.ring->bytes();
    session.ring.reset();
}

void Gate::keep(Session& session) {
    close_side_path(session);
    by_path_.erase(session.path);
    session.path = 0;
    session.written = session.ring == nullptr ? 0 : session.ring->sent();
}

void Gate::move(Session& session, Session& other, std::int64_t now_ns) {
    close_side_path(session);
    by_path_.erase(session.path);
    session.path = other.path;
    session.heard_ns = other.heard_ns;
    std::swap(session.address, other.address);
    other.path = 0;
    remove(other, now_ns);
    by_path_[session.path] = &session;
}

std::size_t Gate::ring_room() const {
    const std::uint64_t share = options_.total_ring_bytes / rings_;
    return std::min<std::uint64_t>(options_.ring_bytes, share);
}

// Room is made before, so that no ring ever has more memory than its share calls for.
void Gate::push(PacketRing& ring, std::string_view packet) {
    const std::size_t room = ring_room();
    const std::size_t before = ring.bytes();
    if (packet.size() > room) {
        ring.skip();
    } else {
        while (ring.count() >= options_.ring_packets || ring.bytes() + packet.size() > room) {
            ring.drop_oldest();
        }
        ring.push(packet);
    }
    ring_bytes_ = ring_bytes_ - before + ring.bytes();
}

bool Gate::is_lost(const Session& session) const {
    return session.path == 0 && session.ring != nullptr &&
           session.ring->first() > session.written + 1;
}

std::vector<std::uint32_t> Gate::trim() {
    std::vector<std::uint32_t> lost;
    for (const auto& [key, session] : by_key_) {
        if (session->ring == nullptr) continue;
        PacketRing& ring = *session->ring;
        ring_bytes_ -= ring.bytes();
        while (ring.bytes() > ring_room()) ring.drop_oldest();
        ring_bytes_ += ring.bytes();
        ring.shrink();
        if (is_lost(*session)) lost.push_back(key);
    }
    return lost;
}

}  // namespace perilune
