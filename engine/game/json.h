// JsonCursor: reads JSON where it lies.
//
// Purpose:   check() looks once whether a text is JSON, without keeping anything of it; all else
//            walks through what was checked.
// Threads:   a value.
// Ownership: the text is the caller's.
//
// RFC 8259, and besides: control characters may stand in strings as they are, but for NUL; an
// integer beyond 2^53 is refused, since a Lua number would change it. Whether the text is UTF-8 is
// for the caller to look at.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace perilune {

inline constexpr int kMaxJsonDepth = 128;  // of arrays and objects inside each other

// The first character of a text that isn't plain in a JSON string: a quote, a backslash, a control
// character. The text's end where there is none.
const char* json_plain_end(const char* at, const char* end);

class JsonCursor {
  public:
    explicit JsonCursor(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

    // True when all that is left is one value. The cursor stays where it is. Otherwise why() says
    // what it "is" or "has".
    bool check();
    const char* why() const { return why_; }

    // --- after check() ---

    // The first character of the value that comes: one of {["tfn- or a digit.
    char peek() {
        skip_space();
        return *at_;
    }
    // Goes into an object or array, on to the next entry, and out. `first`: no entry was read yet.
    void enter() { ++at_; }
    bool next(char closing, bool first);
    // The key of an entry of an object; the cursor is before its value then.
    std::string_view key(std::string& unescaped) {
        const std::string_view text = string(unescaped);
        skip_space();
        ++at_;  // the colon
        return text;
    }
    // A string, in `unescaped` where it has escapes.
    std::string_view string(std::string& unescaped);
    // A number; infinite where it is too large.
    double number();
    // Past a value, whatever it is.
    void skip();
    const char* at() const { return at_; }

  private:
    void skip_space() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
    }
    bool fail(const char* why) {
        why_ = why;
        return false;
    }
    bool check_value(int depth);
    bool check_entries(char closing, int depth);
    bool check_string();
    bool check_escape();
    bool check_number();
    bool check_word(std::string_view word);
    bool digits();

    const char* at_;
    const char* end_;
    const char* why_ = "";
};

}  // namespace perilune
