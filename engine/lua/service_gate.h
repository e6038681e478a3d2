// ServiceGate: the gate of one gateway service, between its sockets and other services.
//
// Purpose:   packets that need no script go from here: what the Gate lets pass to the service of
//            its route, what services send to the client's connection. All else is handed to the
//            script as an Unusual.
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

class ServiceGate {
  public:
    // What the script has to look at.
    struct Unusual {
        std::uint32_t key;  // of the session
        const char* why;    // null: the session, which is kept, is lost
    };
    struct Counters {
        std::uint64_t forwarded = 0;
        std::uint64_t packets_out = 0;
    };

    ServiceGate(Kernel& kernel, Network& network, Handle self, const GateOptions& options);

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

    // A packet from a connection. `done`: it has gone where it belongs. `stranger`: the
    // connection has no session. `unusual`: `message` is left to the script.
    enum class Taken : std::uint8_t { done, stranger, unusual };
    Taken take(MessagePtr& message, Unusual& unusual);
    // Decides again about one that was unusual: routes have changed. Returns why it is unusual
    // still, or null: it has gone where it belongs.
    const char* take_again(Gate::Session& session, std::string_view packet);

    // A packet of a service, which is changed. Returns what the script has to look at because of
    // it; good until the next call.
    const std::vector<Unusual>& deliver(char* packet, std::size_t size, std::uint32_t key);

    // Writes a packet, numbered. False: the session, which is kept, is lost.
    bool write(Gate::Session& session, std::string_view packet);
    // The same without a number. Nothing happens where the session is kept.
    void write_once(const Gate::Session& session, std::string_view packet);
    // Writes again what is in its ring from that number on.
    void write_again(Gate::Session& session, std::uint64_t number);

    // Gate::trim(); good until the next call.
    const std::vector<std::uint32_t>& trim();

  private:
    const char* follow(const Gate::Decision& decision, MessagePtr& message);
    PostResult post(Route& route, MessagePtr& message);
    void complain(const char* text);
    void deliver_broadcast(std::string_view body);

    Kernel& kernel_;
    Network& network_;
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
