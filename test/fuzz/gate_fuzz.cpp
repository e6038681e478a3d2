// Fuzzes the gate: whatever clients send, and whatever happens to sessions meanwhile, only players'
// packets with numbers for clients pass, no reply reaches a session that did not ask, a session
// gets what it missed in order, and rings stay within their room.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <string>

#include "driver.h"
#include "game/gate.h"

namespace perilune::fuzz {

namespace {

constexpr std::uint32_t kKeys = 6;
constexpr std::size_t kRingPackets = 5;
constexpr std::size_t kRingBytes = 200;
constexpr std::size_t kAllBytes = 500;

// What a session should be.
struct Model {
    std::uint64_t path = 0;
    std::uint64_t side_path = 0;
    std::uint32_t uid = 0;
    bool numbered = false;
    std::uint64_t sent = 0;
    std::deque<std::string> kept;  // the last packets, perhaps fewer in the gate
};

class Target {
  public:
    explicit Target(std::string_view input) : input_(input), gate_(options()) {
        gate_.add_route(1);
        gate_.add_route(2);
        gate_.add_login(2, 1);
    }

    void run() {
        while (!input_.empty()) {
            step();
            check(gate_.size() == models_.size());
            check(gate_.ring_bytes() <= kRingBytes * kKeys);
        }
        (void)gate_.trim();
        check(gate_.ring_bytes() <= kAllBytes);
        for (auto& [key, model] : models_) check_ring(*gate_.by_key(key), model);
    }

  private:
    static GateOptions options() {
        return {{1000, 50}, {1000, 80}, kRingPackets, kRingBytes, kAllBytes};
    }
    unsigned byte() {
        if (input_.empty()) return 0;
        const auto value = static_cast<unsigned char>(input_.front());
        input_.remove_prefix(1);
        return value;
    }
    std::string bytes(std::size_t count) {
        const std::string taken(input_.substr(0, count));
        input_.remove_prefix(taken.size());
        return taken;
    }

    void step() {
        now_ns_ += byte() * 100'000;
        const std::uint32_t key = kFirstKey + byte() % kKeys;
        const unsigned what = byte() % 11;
        Gate::Session* session = gate_.by_key(key);
        check((session != nullptr) == (models_.count(key) != 0));
        if (what == 0) return add(key);
        if (what == 1) return receive();
        if (session == nullptr) return;
        Model& model = models_[key];
        switch (what) {
            case 2: enter(*session, model); break;
            case 3: leave(*session, model); break;
            case 4: deliver(); break;
            case 5: write(*session, model); break;
            case 6:
                gate_.number_packets(*session);
                model.numbered = true;
                model.sent = 0;
                model.kept.clear();
                break;
            case 7:
                gate_.keep(*session);
                model.path = model.side_path = 0;
                break;
            case 8: move(*session, model); break;
            case 9: open_side_path(*session, model); break;
            default: gate_.remove(*session, now_ns_); models_.erase(key);
        }
    }

    void add(std::uint32_t key) {
        const std::uint64_t path = 1 + byte() % 8;
        const char* addresses[] = {"", "a", "b"};
        const bool taken = gate_.by_path(path) != nullptr || models_.count(key) != 0;
        const Gate::Session* added = gate_.add(key, path, addresses[byte() % 3], now_ns_);
        check((added == nullptr) == taken);
        if (added != nullptr) models_[key].path = path;
    }

    void open_side_path(Gate::Session& session, Model& model) {
        const std::uint64_t path = byte() % 9;
        if (path == 0) {
            gate_.close_side_path(session);
            model.side_path = 0;
            return;
        }
        const bool possible = model.uid != 0 && model.path != 0 && gate_.by_path(path) == nullptr;
        check(gate_.open_side_path(session, path) == possible);
        if (possible) model.side_path = path;
        check(model.side_path == 0 || gate_.by_path(model.side_path) == &session);
    }

    void receive() {
        const std::uint64_t path = 1 + byte() % 8;
        const std::string packet = bytes(byte() % 14);
        const Gate::Decision decision = gate_.decide(path, packet, now_ns_);
        check((decision.session == nullptr) == (decision.verdict == Gate::Verdict::stranger));
        if (decision.session != nullptr) {
            const Model& model = models_.at(decision.session->key);
            check(path == (decision.by_side_path ? model.side_path : model.path));
        }
        if (decision.verdict != Gate::Verdict::forward) return;
        const auto header = read_header(packet);
        check(header && (header->stype == 1 || header->stype == 2) && header->ctype >= 0);
        check(header->ctype != kDisconnected && header->ctype != kBroadcast);
        check(header->form == kJsonForm || header->form == kBufForm);
        check(decision.route == static_cast<std::size_t>(header->stype - 1));
        const Gate::Session& session = *decision.session;
        check(session.uid != 0 && Gate::utag_of(session) == session.uid);
        check(models_.at(session.key).uid == session.uid);
        gate_.forwarded(*decision.session, decision.route);
    }

    void enter(Gate::Session& session, Model& model) {
        const std::uint32_t uid = 1 + byte() % 4;
        const bool free = model.uid == 0 && gate_.by_uid(uid) == nullptr;
        check(gate_.enter(session, uid) == free);
        if (free) model.uid = uid;
    }

    void leave(Gate::Session& session, Model& model) {
        const auto seen = gate_.leave(session);
        check(model.uid != 0 || seen.empty());
        check(std::all_of(seen.begin(), seen.end(), [](std::size_t route) { return route < 2; }));
        model.uid = 0;
        model.side_path = 0;
    }

    void deliver() {
        const std::uint32_t key = byte() % 2 == 0 ? 0 : kFirstKey + byte() % kKeys;
        PacketHeader header{1, 1, byte() % 6, kJsonForm};
        if (byte() % 4 == 0) header.utag = kFirstKey + byte() % kKeys;
        const Gate::Session* session = gate_.receiver(header, key);
        if (session == nullptr) return;
        check(key == 0 || session->key == key);
        check(header.utag == session->key || (session->uid == header.utag && header.utag != 0));
    }

    void write(Gate::Session& session, Model& model) {
        const std::string packet = bytes(byte());
        const Gate::Fate fate = gate_.remember(session, packet);
        check((fate == Gate::Fate::write) == (model.path != 0));
        if (!model.numbered) return;
        ++model.sent;
        model.kept.push_back(packet);
        if (model.kept.size() > kRingPackets) model.kept.pop_front();
        if (packet.size() > kRingBytes) model.kept.clear();
        check_ring(session, model);
    }

    void check_ring(const Gate::Session& session, const Model& model) {
        check((session.ring != nullptr) == model.numbered);
        if (!model.numbered) return;
        const PacketRing& ring = *session.ring;
        check(ring.sent() == model.sent && ring.count() <= model.kept.size());
        check(ring.bytes() <= kRingBytes);
        std::size_t at = model.kept.size() - ring.count();
        ring.each_from(0, [&](std::string_view packet) { check(packet == model.kept[at++]); });
    }

    void move(Gate::Session& session, Model& model) {
        const std::uint32_t other = kFirstKey + byte() % kKeys;
        if (other == session.key || models_.count(other) == 0 || models_[other].path == 0) return;
        gate_.move(session, *gate_.by_key(other), now_ns_);
        model.path = models_[other].path;
        model.side_path = 0;
        models_.erase(other);
        check(gate_.by_path(model.path) == &session);
    }

    std::string_view input_;
    Gate gate_;
    std::map<std::uint32_t, Model> models_;
    std::int64_t now_ns_ = 0;
};

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const auto broadcast = perilune::read_broadcast(input);
    if (broadcast.ok()) {
        const perilune::Broadcast& parts = broadcast.value();
        check(parts.packet.size() + 4 * parts.count() + 4 == size);
        for (std::size_t i = 0; i < parts.count(); ++i) (void)parts.uid(i);
    }
    Target(input).run();
}

std::string random_input(std::mt19937_64& random, unsigned long round) {
    std::string bytes(random() % 600, '\0');
    // Small numbers are keys, commands and packets that get somewhere.
    const unsigned most = round % 3 == 0 ? 256 : 2 + random() % 12;
    for (char& byte : bytes) byte = static_cast<char>(random() % most);
    return bytes;
}

}  // namespace perilune::fuzz
