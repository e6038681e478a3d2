// Log text: what the log makes of text that may come from clients.
//
// Purpose:   secrets become ***, control characters and what is not UTF-8 are escaped, for a
//            terminal or as JSON.
// Threads:   any; pure functions.
// Ownership: results are the caller's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace perilune {

// What may stand in a message.
enum class LogText : std::uint8_t {
    line,   // newlines are escaped like every control character
    lines,  // a traceback of the engine's own: newlines stay, what follows one is indented
};

// Whether a value of this name is a secret: also that of resume_token or DB_PASSWORD.
bool is_secret(std::string_view name);

// `text` with *** in place of secrets.
std::string redact(std::string_view text);

// Appends `text` for a terminal: what could harm it as \n, \x1b or \u2028.
void append_text(std::string& out, std::string_view text, LogText mode);

// Appends `text` as a JSON string; what is not UTF-8 becomes U+FFFD.
void append_json(std::string& out, std::string_view text);

// The longest part of `text` of at most `limit` bytes that cuts no character.
std::string_view cut(std::string_view text, std::size_t limit);

}  // namespace perilune
