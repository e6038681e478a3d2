#include "data/redis_command.h"

#include <hiredis/hiredis.h>

#include <array>

namespace perilune {

namespace {

// CRC-16/XMODEM, a row for each byte.
constexpr std::array<std::uint16_t, 256> make_crc_table() {
    std::array<std::uint16_t, 256> table{};
    for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
        std::uint32_t crc = byte << 8;
        for (int bit = 0; bit < 8; ++bit) crc = (crc << 1) ^ ((crc & 0x8000) != 0 ? 0x1021 : 0);
        table[byte] = static_cast<std::uint16_t>(crc);
    }
    return table;
}

constexpr std::array<std::uint16_t, 256> kCrcTable = make_crc_table();

// What stands between the first "{" and the next "}", unless that is nothing.
std::string_view hashed_part(std::string_view key) {
    const std::size_t open = key.find('{');
    if (open == std::string_view::npos) return key;
    const std::size_t close = key.find('}', open + 1);
    if (close == std::string_view::npos || close == open + 1) return key;
    return key.substr(open + 1, close - open - 1);
}

}  // namespace

void RedisCommand::Free::operator()(char* bytes) const { redisFreeCommand(bytes); }

Result<RedisCommand> RedisCommand::make(std::span<const char*> parts,
                                        std::span<const std::size_t> sizes) {
    if (parts.empty()) return Status::error(StatusCode::invalid, "a command without a name");
    if (parts.size() > kMaxParts) {
        return Status::error(StatusCode::too_large, "a command of over %zu parts", kMaxParts);
    }
    std::size_t total = 0;
    for (const std::size_t size : sizes) {
        // hiredis counts in an int.
        if (size > kMaxBytes - total) {
            return Status::error(StatusCode::too_large, "a command of over %zu MB",
                                 kMaxBytes >> 20);
        }
        total += size;
    }
    char* bytes = nullptr;
    const int size =
        redisFormatCommandArgv(&bytes, static_cast<int>(parts.size()), parts.data(), sizes.data());
    if (size < 0) return Status::error(StatusCode::unavailable, "no memory for a command");
    RedisCommand command;
    command.bytes_.reset(bytes);
    command.size_ = static_cast<std::size_t>(size);
    return command;
}

std::uint32_t redis_slot(std::string_view key) {
    std::uint32_t crc = 0;
    for (const char c : hashed_part(key)) {
        crc =
            ((crc << 8) ^ kCrcTable[((crc >> 8) ^ static_cast<unsigned char>(c)) & 0xff]) & 0xffff;
    }
    return crc % RedisCommand::kSlots;
}

}  // namespace perilune
