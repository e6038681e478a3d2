// Utf8Check: whether bytes that come in pieces are UTF-8.
//
// Purpose:   texts of clients must be: those of WebSockets are refused at the first byte that can't
//            be, fields of packets as a whole.
// Threads:   a value.
#pragma once

#include <cstdint>
#include <string_view>

namespace perilune {

class Utf8Check {
  public:
    // False from the first wrong byte on.
    bool take(std::string_view bytes);
    // Whether the text may end here.
    bool complete() const { return missing_ == 0; }

  private:
    std::uint8_t missing_ = 0;  // bytes of the character that is under way
    // The range of the next of them: the first after some leads is limited (RFC 3629, section 4).
    std::uint8_t least_ = 0x80;
    std::uint8_t most_ = 0xbf;
};

inline bool is_utf8(std::string_view text) {
    Utf8Check check;
    return check.take(text) && check.complete();
}

}  // namespace perilune
