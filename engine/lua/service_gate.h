// ServiceGate: the gate of one gateway service, between its sockets and other services.
//
// Purpose:   packets that need no script go from here: what the Gate lets pass to the service of
//            its route, what services send to the client's connection. All else is handed to the
//            script as an Unusual. A player's side path is a peer of ENet.
// Threads:   the worker that runs the service's VM.
// Ownership: its Service owns it; kernel and network outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/kernel.h"
#include "game/gate.h"

namespace perilune {

class Network;
class Udp;

class ServiceGate {
  public:
    // What the script has to look at.
    struct Unusual {
        std::uint32_t key;  // of the session
        const char* why;    // null: the session, which is kept, is lost
        bool by_udp = false;
    };
    struct Counters {
        std::uint64_t forwarded = 0;
        std::uint64_t packets_out = 0;
        std::uint64_t udp_packets_in = 0;
        std::uint64_t udp_packets_out = 0;
        std::uint64_t udp_fallbacks = 0;  // what might have been lost went by the session's path
    };
    // What goes by UDP fits into one datagram, whatever is on the way.
    static constexpr std::size_t kMaxUdpPacket = 1200;
    static constexpr std::uint8_t kUnreliableChannel = 1;

    // `udp` is null where there is none.
    ServiceGate(Kernel& kernel, Network& network, Udp* udp, Handle self,
                const GateOptions& options);

    Gate& gate() { return gate_; }
    const Counters& counters() const { return counters_; }
    std::int64_t now_ns() const { return kernel_.clock().coarse_ns(); }

    // Packets of that stype go to the service of that name, from now on.
    void add_route(std::int16_t stype, std::string_view name);
    struct Route {
        std::int16_t stype;
        std::string name;
        Handle handle;  // whose name it was when it was looked up; names are kept until death
    };
    const Route& route(std::size_t number) const { return routes_[number]; }

    // A packet from a connection, or a peer. `done`: it has gone where it belongs. `stranger`: no
    // session has that. `unusual`: `message` is left to the script.
    enum class Taken : std::uint8_t { done, stranger, unusual };
    Taken take(MessagePtr& message, Unusual& unusual);
    // Decides again about one that was unusual: routes have changed. Returns why it is unusual
    // still, or null: it has gone where it belongs.
    const char* take_again(Gate::Session& session, std::string_view packet);

    // A packet of a service, which is changed. Returns what the script has to look at because of
    // it; good until the next call. An unreliable one may be lost.
    const std::vector<Unusual>& deliver(char* packet, std::size_t size, std::uint32_t key,
                                        bool unreliable);

    // Writes a packet, numbered. False: the session, which is kept, is lost.
    bool write(Gate::Session& session, std::string_view packet);
    // The same without a number. Nothing happens where the session is kept.
    void write_once(const Gate::Session& session, std::string_view packet);
    // A peer is its session's side path from now on; as Gate::open_side_path().
    bool open_udp(Gate::Session& session, std::uint64_t peer);

    // Writes again what is in its ring from that number on.
    void write_again(Gate::Session& session, std::uint64_t number);

    // Gate::trim(); good until the next call.
    const std::vector<std::uint32_t>& trim();

  private:
    // Connections and peers have ids of their own.
    static constexpr std::uint64_t kUdpPath = std::uint64_t{1} << 62;

    const char* follow(const Gate::Decision& decision, MessagePtr& message);
    PostResult post(Route& route, MessagePtr& message);
    void complain(const char* text);
    void deliver_broadcast(std::string_view body, bool unreliable);
    enum class Sent : std::uint8_t { done, dropped, impossible };
    Sent write_unreliable(const Gate::Session& session, std::string_view packet);

    Kernel& kernel_;
    Network& network_;
    Udp* const udp_;
    const Handle self_;
    Gate gate_;
    std::vector<Route> routes_;
    std::vector<ConnectionId> receivers_;  // of a broadcast; kept for its memory
    // Members, since a Lua error would jump over locals.
    std::vector<Unusual> unusual_;
    std::vector<std::uint32_t> lost_;
    Counters counters_;
};

}  // namespace perilune
