// Cookies: an address proves that it can receive before anything is kept or done for it.
//
// Purpose:   the exchange that comes before ENet, as bytes; making and checking cookies without
//            keeping anything; the bounded table of addresses that have proven themselves.
// Threads:   none of its own: whoever holds the ENet host's mutex.
//
// DESIGN
//   UDP's sender addresses can be forged, so whoever answers a stranger can be made to send to a
//   third party, and whoever keeps something for a stranger can be filled. Here a stranger is
//   answered once for each request, with fewer bytes than it sent, and what it must show later is
//   computed from its address again instead of being remembered.
//
//   All datagrams begin with "PLU" and the version 1. "P" has a bit set (0x40) that in ENet means
//   a compressed datagram, which this engine never sends and drops, so the two can't be confused.
//   docs/protocol.md has the bytes for writers of clients.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "core/random.h"
#include "net/address.h"

namespace perilune {

enum class CookieKind : std::uint8_t {
    request = 1,  // client: 48 bytes, most of them padding
    cookie = 2,   // server: 36 bytes
    proof = 3,    // client: 28 bytes
};

inline constexpr std::size_t kCookieRequestSize = 48;
inline constexpr std::size_t kCookieReplySize = 36;
inline constexpr std::size_t kCookieProofSize = 28;
static_assert(kCookieReplySize <= kCookieRequestSize);

struct Cookie {
    std::uint32_t period = 0;  // when it was made, in steps of CookieMaker::kPeriodNs
    std::array<std::uint8_t, 16> mac{};
    friend bool operator==(const Cookie&, const Cookie&) = default;
};

struct CookieDatagram {
    CookieKind kind = CookieKind::request;
    std::uint64_t nonce = 0;  // of a request and its reply: which request is answered
    Cookie cookie;            // of a reply and a proof
};

// Whether it begins like one; then it is no ENet datagram, even if it can't be read.
bool is_cookie_datagram(std::string_view bytes);
// Nothing unless every byte is as it must be.
std::optional<CookieDatagram> read_cookie_datagram(std::string_view bytes);
// Writes it to `to`, which has room for kCookieRequestSize; returns its size.
std::size_t write_cookie_datagram(const CookieDatagram& datagram, char* to);

enum class CookieVerdict : std::uint8_t { good, old, forged };

// Makes cookies under a secret that nobody else knows and that is replaced while it runs.
class CookieMaker {
  public:
    static constexpr std::int64_t kPeriodNs = 10'000'000'000;  // a cookie is good for 10 to 20 s
    static constexpr std::uint32_t kSecretPeriods = 64;        // then a new secret: each 640 s
    // How far back again() goes: a cookie's 20 s, the 30 s of its proof, and as long to say so.
    static constexpr std::uint32_t kKnownPeriods = 8;

    explicit CookieMaker(Random& random);
    ~CookieMaker();
    CookieMaker(const CookieMaker&) = delete;
    CookieMaker& operator=(const CookieMaker&) = delete;

    Cookie make(const Address& address, std::int64_t now_ns);
    CookieVerdict check(const Cookie& cookie, const Address& address, std::int64_t now_ns);
    // The one that the address got in a period, if it asked then. Nothing for one that is too
    // long ago, or is still to come.
    std::optional<Cookie> again(const Address& address, std::uint32_t period, std::int64_t now_ns);

  private:
    struct Secret {
        std::uint32_t span = 0;
        bool made = false;
        std::array<std::uint8_t, 32> key{};
    };
    std::uint32_t period_of(std::int64_t now_ns) const;
    bool is_known(std::uint32_t period, std::uint32_t most, std::int64_t now_ns) const;
    const Secret* secret_of(std::uint32_t period);
    static std::array<std::uint8_t, 16> mac_of(const Secret& secret, const Address& address,
                                               std::uint32_t period);

    Random& random_;
    std::uint32_t first_period_ = 0;  // random: the period doesn't say how long the node runs
    Secret secrets_[2];               // of even and odd spans
};

// Who has shown a good cookie lately.
class ProvenTable {
  public:
    struct Options {
        std::size_t most = 4096;
        std::size_t most_per_address = 64;  // ports of one client's address
        std::int64_t keep_ns = 30'000'000'000;
    };
    enum class Added : std::uint8_t {
        added,
        known,
        evicted,  // added; the oldest had to go for it
        refused,  // too many of that address
    };

    explicit ProvenTable(const Options& options) : options_(options) {}

    Added add(const Address& address, std::int64_t now_ns);
    bool contains(const Address& address, std::int64_t now_ns) const;
    // It has what it wanted: its place is free for others.
    void remove(const Address& address);
    std::size_t size() const { return until_.size(); }

  private:
    struct Entry {
        Address address;
        std::int64_t until_ns;
        std::uint64_t serial;
    };
    struct Kept {
        std::int64_t until_ns;
        std::uint64_t serial;
    };
    void drop_stale();
    void expire(std::int64_t now_ns);
    void drop_oldest();
    void forget(const Address& address);

    const Options options_;
    std::unordered_map<Address, Kept, AddressHash> until_;
    std::unordered_map<Address, std::uint32_t, AddressHash> per_address_;
    std::uint64_t serial_ = 0;
    std::deque<Entry> order_;  // by their ends; removed ones stay until then, or it is too long
};

}  // namespace perilune
