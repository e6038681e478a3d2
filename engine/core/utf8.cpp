#include "core/utf8.h"

#include <cstring>

namespace perilune {

bool Utf8Check::take(std::string_view bytes) {
    const char* at = bytes.data();
    const char* const end = at + bytes.size();
    while (at != end) {
        if (missing_ == 0) {
            // Eight letters of ASCII at a time.
            std::uint64_t word;
            while (end - at >= 8) {
                std::memcpy(&word, at, 8);
                if ((word & 0x8080808080808080) != 0) break;
                at += 8;
            }
            if (at == end) return true;
        }
        const auto byte = static_cast<std::uint8_t>(*at++);
        if (missing_ != 0) {
            if (byte < least_ || byte > most_) return false;
            least_ = 0x80;
            most_ = 0xbf;
            --missing_;
        } else if (byte >= 0x80) {
            if (byte < 0xc2 || byte > 0xf4) return false;
            missing_ = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
            if (byte == 0xe0) least_ = 0xa0;  // shorter forms exist
            if (byte == 0xed) most_ = 0x9f;   // surrogates
            if (byte == 0xf0) least_ = 0x90;  // shorter forms exist
            if (byte == 0xf4) most_ = 0x8f;   // over U+10FFFF
        }
    }
    return true;
}

}  // namespace perilune
