// SoakTest: the frame of every promise that somebody attacks.
//
// Purpose:   a node with the standard services in a process of its own, players beside it who
//            behave and measure (`perilune bots chat`), and the attack of a test. Afterwards the
//            players must have noticed nothing, the node must have kept nothing, and it must be
//            the same process, which stops in order.
// Threads:   one.
// Ownership: the processes end with the test.
//
// With PERILUNE_SOAK set everything has its full number: 200 players, half of them by WebSocket,
// an echo each 500 ms, a line each 5 s, and a minute of rest behind the attack. Without it a test
// takes a few seconds, and no times are judged.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "../embed/process.h"
#include "../eventually.h"
#include "peer.h"

namespace perilune::test {

bool is_soak();

// How many, or how long.
template <typename Number>
Number scale(Number usual, Number soak) {
    return is_soak() ? soak : usual;
}

// What the system says of a process.
struct Residents {
    double rss_mb = 0;
    int descriptors = 0;
    int close_wait = 0;  // connections whose peer has ended, and that are still there
};

class SoakTest : public testing::Test {
  protected:
    using Clock = std::chrono::steady_clock;
    using Numbers = std::map<std::string, double>;
    // Attacks until `end`, and is done soon after it.
    using Attack = std::function<void(Clock::time_point end)>;

    struct Options {
        std::string gateway;  // options of it, as in config.lua
        int descriptors = 0;  // the node's limit; 0: as usual
    };

    ~SoakTest() override;

    void start(const Options& options);
    // Lets players play for `seconds` while `attack` runs, and checks all that the frame promises.
    void attack(int seconds, const Attack& attack);

    // What the node counts: "gateway.sessions", "node.net_closed_slow", "node.cookie_requests".
    Numbers numbers();
    double number(const std::string& name) { return numbers()[name]; }
    // Of the gateway: by transport. Of the service "framed": "u32be".
    std::uint16_t port(Transport transport);
    std::uint16_t port(const std::string& framed);
    // Sends a line to the service "probe" and waits for its answer.
    std::string ask(const std::string& line);
    // In a soak, which has its machine for itself. Elsewhere a time proves nothing.
    static void expect_in_time(Clock::duration took, Clock::duration limit, const char* what) {
        EXPECT_TRUE(!is_soak() || took <= limit) << what << " took " << took.count() << " ns";
    }

    Residents residents() const;
    double cpu_seconds() const;  // that the node has used

  private:
    void check_bystanders(Process& bots, bool saturated);
    void check_residue(const Residents& before, const Residents& during);

    Folder folder_;
    std::unique_ptr<Process> node_;
    std::unique_ptr<Peer> probe_;
    Numbers ports_;
    std::string report_;
};

}  // namespace perilune::test
