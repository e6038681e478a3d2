#include "net/cookie.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cstring>

namespace perilune {

namespace {

constexpr char kMagic[4] = {'P', 'L', 'U', 1};
constexpr std::size_t kHead = 8;  // magic | kind | 3 zeros

// Integers of this protocol are little-endian, as those of the others are.
template <typename T>
void put(char* to, T value) {
    for (std::size_t i = 0; i < sizeof value; ++i) {
        to[i] = static_cast<char>((value >> (8 * i)) & 0xff);
    }
}

template <typename T>
T get(const char* from) {
    T value = 0;
    for (std::size_t i = 0; i < sizeof value; ++i) {
        value |= static_cast<T>(static_cast<std::uint8_t>(from[i])) << (8 * i);
    }
    return value;
}

bool all_zero(std::string_view bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
}

void put_cookie(char* to, const Cookie& cookie) {
    put(to, cookie.period);
    std::memcpy(to + 4, cookie.mac.data(), cookie.mac.size());
}

Cookie get_cookie(const char* from) {
    Cookie cookie;
    cookie.period = get<std::uint32_t>(from);
    std::memcpy(cookie.mac.data(), from + 4, cookie.mac.size());
    return cookie;
}

}  // namespace

bool is_cookie_datagram(std::string_view bytes) {
    return bytes.size() >= sizeof kMagic && std::memcmp(bytes.data(), kMagic, sizeof kMagic) == 0;
}

std::optional<CookieDatagram> read_cookie_datagram(std::string_view bytes) {
    if (!is_cookie_datagram(bytes) || bytes.size() < kHead || !all_zero(bytes.substr(5, 3))) {
        return std::nullopt;
    }
    CookieDatagram datagram;
    datagram.kind = static_cast<CookieKind>(bytes[4]);
    switch (datagram.kind) {
        case CookieKind::request:
            if (bytes.size() != kCookieRequestSize || !all_zero(bytes.substr(16))) break;
            datagram.nonce = get<std::uint64_t>(bytes.data() + kHead);
            return datagram;
        case CookieKind::cookie:
            if (bytes.size() != kCookieReplySize) break;
            datagram.nonce = get<std::uint64_t>(bytes.data() + kHead);
            datagram.cookie = get_cookie(bytes.data() + 16);
            return datagram;
        case CookieKind::proof:
            if (bytes.size() != kCookieProofSize) break;
            datagram.cookie = get_cookie(bytes.data() + kHead);
            return datagram;
    }
    return std::nullopt;
}

std::size_t write_cookie_datagram(const CookieDatagram& datagram, char* to) {
    std::memset(to, 0, kCookieRequestSize);
    std::memcpy(to, kMagic, sizeof kMagic);
    to[4] = static_cast<char>(datagram.kind);
    if (datagram.kind == CookieKind::proof) {
        put_cookie(to + kHead, datagram.cookie);
        return kCookieProofSize;
    }
    put(to + kHead, datagram.nonce);
    if (datagram.kind == CookieKind::request) return kCookieRequestSize;
    put_cookie(to + 16, datagram.cookie);
    return kCookieReplySize;
}

// --- CookieMaker ---

CookieMaker::CookieMaker(Random& random)
    : random_(random), first_period_(static_cast<std::uint32_t>(random.next())) {}

CookieMaker::~CookieMaker() {
    for (Secret& secret : secrets_) OPENSSL_cleanse(secret.key.data(), secret.key.size());
}

std::uint32_t CookieMaker::period_of(std::int64_t now_ns) const {
    return first_period_ + static_cast<std::uint32_t>(now_ns / kPeriodNs);
}

// The secret that a period's cookies are made with. Those of the span before stay good until the
// span after begins.
const CookieMaker::Secret* CookieMaker::secret_of(std::uint32_t period) {
    const std::uint32_t span = (period - first_period_) / kSecretPeriods;
    Secret& secret = secrets_[span % 2];
    if (!secret.made || secret.span != span) {
        random_.fill(secret.key.data(), secret.key.size());
        secret.span = span;
        secret.made = true;
    }
    return &secret;
}

std::array<std::uint8_t, 16> CookieMaker::mac_of(const Secret& secret, const Address& address,
                                                 std::uint32_t period) {
    char text[16 + 2 + 4];
    std::memcpy(text, address.bytes.data(), 16);
    put(text + 16, address.port);
    put(text + 18, period);
    std::uint8_t digest[EVP_MAX_MD_SIZE] = {};
    unsigned size = 0;
    HMAC(EVP_sha256(), secret.key.data(), static_cast<int>(secret.key.size()),
         reinterpret_cast<const unsigned char*>(text), sizeof text, digest, &size);
    std::array<std::uint8_t, 16> mac;
    std::memcpy(mac.data(), digest, mac.size());
    return mac;
}

Cookie CookieMaker::make(const Address& address, std::int64_t now_ns) {
    Cookie cookie;
    cookie.period = period_of(now_ns);
    cookie.mac = mac_of(*secret_of(cookie.period), address, cookie.period);
    return cookie;
}

// Whether it has been, at most so many periods ago.
bool CookieMaker::is_known(std::uint32_t period, std::uint32_t most, std::int64_t now_ns) const {
    const std::uint32_t now = period_of(now_ns);
    return now - period <= most && period - first_period_ <= now - first_period_;
}

std::optional<Cookie> CookieMaker::again(const Address& address, std::uint32_t period,
                                         std::int64_t now_ns) {
    if (!is_known(period, kKnownPeriods, now_ns)) return std::nullopt;
    return Cookie{period, mac_of(*secret_of(period), address, period)};
}

CookieVerdict CookieMaker::check(const Cookie& cookie, const Address& address,
                                 std::int64_t now_ns) {
    // Before the digest: what is old costs nothing to refuse.
    if (!is_known(cookie.period, 1, now_ns)) return CookieVerdict::old;
    const auto mac = mac_of(*secret_of(cookie.period), address, cookie.period);
    const bool equal = CRYPTO_memcmp(mac.data(), cookie.mac.data(), mac.size()) == 0;
    return equal ? CookieVerdict::good : CookieVerdict::forged;
}

// --- ProvenTable ---

void ProvenTable::forget(const Address& address) {
    if (until_.erase(address) == 0) return;
    Address client = address.client_key();
    const auto found = per_address_.find(client);
    if (found != per_address_.end() && --found->second == 0) per_address_.erase(found);
}

void ProvenTable::drop_oldest() {
    const Entry oldest = order_.front();
    order_.pop_front();
    const auto found = until_.find(oldest.address);
    if (found != until_.end() && found->second.serial == oldest.serial) forget(oldest.address);
}

// Those that were removed before their end, and perhaps added again since.
void ProvenTable::drop_stale() {
    std::erase_if(order_, [this](const Entry& entry) {
        const auto found = until_.find(entry.address);
        return found == until_.end() || found->second.serial != entry.serial;
    });
}

void ProvenTable::expire(std::int64_t now_ns) {
    while (!order_.empty() && order_.front().until_ns <= now_ns) drop_oldest();
}

ProvenTable::Added ProvenTable::add(const Address& address, std::int64_t now_ns) {
    expire(now_ns);
    if (until_.contains(address)) return Added::known;
    const Address client = address.client_key();
    const auto found = per_address_.find(client);
    if (found != per_address_.end() && found->second >= options_.most_per_address) {
        return Added::refused;
    }
    Added result = Added::added;
    if (order_.size() >= 2 * options_.most) drop_stale();
    while (until_.size() >= options_.most) {
        drop_oldest();
        result = Added::evicted;
    }
    const std::int64_t until_ns = now_ns + options_.keep_ns;
    until_.emplace(address, Kept{until_ns, ++serial_});
    ++per_address_[client];
    order_.push_back({address, until_ns, serial_});
    return result;
}

bool ProvenTable::contains(const Address& address, std::int64_t now_ns) const {
    const auto found = until_.find(address);
    return found != until_.end() && found->second.until_ns > now_ns;
}

void ProvenTable::remove(const Address& address) { forget(address); }

}  // namespace perilune
