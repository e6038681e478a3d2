#include "net/websocket.h"

#include <algorithm>
#include <cstring>

namespace perilune {

namespace {

constexpr std::uint8_t kFinal = 0x80;
constexpr std::uint8_t kReserved = 0x70;
constexpr std::uint8_t kMasked = 0x80;
constexpr std::uint8_t kLength16 = 126;
constexpr std::uint8_t kLength64 = 127;
constexpr std::size_t kFirstPiece = 256;

bool is_control(WebSocketOpcode opcode) { return (static_cast<std::uint8_t>(opcode) & 8) != 0; }

std::uint64_t read_big_endian(const char* bytes, int count) {
    std::uint64_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
    return value;
}

}  // namespace

bool WebSocketCode::may_be_sent(std::uint16_t code) {
    if (code >= 3000) return code <= 4999;
    return code >= 1000 && code <= 1014 && code != 1004 && code != kNone && code != 1006;
}

void mask_websocket(char* bytes, std::size_t size, const char* mask, std::size_t offset) {
    char turned[8];
    for (std::size_t i = 0; i < 8; ++i) turned[i] = mask[(offset + i) % 4];
    std::uint64_t word_mask;
    std::memcpy(&word_mask, turned, 8);
    std::size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        std::uint64_t word;
        std::memcpy(&word, bytes + at, 8);
        word ^= word_mask;
        std::memcpy(bytes + at, &word, 8);
    }
    for (std::size_t i = 0; at < size; ++at, ++i) bytes[at] ^= turned[i];
}

WebSocketDecoder::Outcome WebSocketDecoder::next(std::string_view& input, std::size_t max_message,
                                                 Frame& frame) {
    frame.buffer = {};
    for (;;) {
        if (!in_body_) {
            if (!take_header(input)) return Outcome::more;
            const Outcome checked = check_header(max_message);
            if (checked != Outcome::more) return checked;
            in_body_ = true;
            taken_ = 0;
            if (take_whole(input, frame)) return finish_frame(frame);
        }
        take_body(input);
        if (!valid_) return Outcome::invalid_text;
        if (taken_ < length_) return Outcome::more;
        frame.bytes = {};
        const Outcome outcome = finish_frame(frame);
        if (outcome != Outcome::more) return outcome;  // else a fragment: the next frame
    }
}

std::size_t WebSocketDecoder::header_size() const {
    if (header_bytes_ < 2) return 2;
    const auto second = static_cast<std::uint8_t>(header_[1]);
    const std::uint8_t length = second & ~kMasked;
    std::size_t size = 2;
    if (length == kLength16) size += 2;
    if (length == kLength64) size += 8;
    if ((second & kMasked) != 0) size += 4;
    return size;
}

// False: more is needed.
bool WebSocketDecoder::take_header(std::string_view& input) {
    while (header_bytes_ < header_size()) {
        const std::size_t count = std::min(header_size() - header_bytes_, input.size());
        if (count == 0) return false;
        std::copy_n(input.data(), count, header_.data() + header_bytes_);
        header_bytes_ = static_cast<std::uint8_t>(header_bytes_ + count);
        input.remove_prefix(count);
    }
    return true;
}

// Outcome::more: the header is good, its body may come.
WebSocketDecoder::Outcome WebSocketDecoder::check_header(std::size_t max_message) {
    const auto first = static_cast<std::uint8_t>(header_[0]);
    const auto second = static_cast<std::uint8_t>(header_[1]);
    const std::size_t size = header_size();
    header_bytes_ = 0;
    if ((first & kReserved) != 0) return Outcome::malformed;
    const bool masked = (second & kMasked) != 0;
    if (masked != (role_ == WebSocketRole::server)) return Outcome::malformed;
    final_ = (first & kFinal) != 0;
    opcode_ = static_cast<WebSocketOpcode>(first & 0x0f);
    length_ = second & ~kMasked;
    if (length_ == kLength16) {
        length_ = read_big_endian(header_.data() + 2, 2);
        if (length_ < kLength16) return Outcome::malformed;
    } else if (length_ == kLength64) {
        length_ = read_big_endian(header_.data() + 2, 8);
        if (length_ <= 0xffff || length_ >> 63 != 0) return Outcome::malformed;
    }
    if (masked) std::copy_n(header_.data() + size - 4, 4, mask_.data());
    const bool in_message = message_opcode_ != WebSocketOpcode::continuation;
    switch (opcode_) {
        case WebSocketOpcode::close:
        case WebSocketOpcode::ping:
        case WebSocketOpcode::pong:
            control_bytes_ = 0;
            return final_ && length_ <= kMaxControl ? Outcome::more : Outcome::malformed;
        case WebSocketOpcode::continuation:
            if (!in_message) return Outcome::malformed;
            break;
        case WebSocketOpcode::text:
        case WebSocketOpcode::binary:
            if (in_message) return Outcome::malformed;
            message_opcode_ = opcode_;
            utf8_ = {};
            valid_ = true;
            break;
        default: return Outcome::malformed;
    }
    limit_ = max_message;
    return length_ > max_message - std::min(max_message, message_.size()) ? Outcome::too_large
                                                                          : Outcome::more;
}

void WebSocketDecoder::unmask(char* bytes, std::size_t size) const {
    if (role_ == WebSocketRole::server) mask_websocket(bytes, size, mask_.data(), taken_ % 4);
}

// Most messages: unfragmented, and all there. They need no memory of the connection.
bool WebSocketDecoder::take_whole(std::string_view& input, Frame& frame) {
    thread_local char small[kSmall];
    if (!final_ || opcode_ == WebSocketOpcode::continuation || length_ > kSmall ||
        input.size() < length_ || is_control(opcode_)) {
        return false;
    }
    std::memcpy(small, input.data(), length_);
    unmask(small, length_);
    frame.bytes = {small, length_};
    input.remove_prefix(length_);
    taken_ = length_;
    if (message_opcode_ == WebSocketOpcode::text) valid_ = check_text(frame.bytes, true);
    return true;
}

void WebSocketDecoder::take_body(std::string_view& input) {
    const std::size_t count = std::min<std::uint64_t>(length_ - taken_, input.size());
    const std::string_view piece = input.substr(0, count);
    if (is_control(opcode_)) {
        char* to = control_.data() + control_bytes_;
        std::copy(piece.begin(), piece.end(), to);
        unmask(to, count);
        control_bytes_ = static_cast<std::uint8_t>(control_bytes_ + count);
    } else {
        append(piece);
    }
    taken_ += count;
    input.remove_prefix(count);
}

// The room doubles with what has arrived and never passes the limit.
void WebSocketDecoder::append(std::string_view bytes) {
    const std::size_t used = message_.size();
    const std::size_t needed = used + bytes.size();
    if (!message_ || message_.get()->capacity() < needed) {
        const std::size_t most = std::max<std::size_t>(limit_, needed);
        const std::size_t room = std::max({needed, 2 * used, kFirstPiece});
        BufferRef larger(Buffer::create(std::min(room, most)));
        if (used != 0) std::memcpy(larger.get()->data(), message_.data(), used);
        message_ = std::move(larger);
    }
    char* to = message_.get()->data() + used;
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    unmask(to, bytes.size());
    message_.get()->set_size(needed);
    if (message_opcode_ == WebSocketOpcode::text) {
        const bool last = final_ && taken_ + bytes.size() == length_;
        valid_ = valid_ && check_text({to, bytes.size()}, last);
    }
}

bool WebSocketDecoder::check_text(std::string_view bytes, bool last) {
    return utf8_.take(bytes) && (!last || utf8_.complete());
}

// All of the frame is there: in frame.bytes, in message_ or in control_.
WebSocketDecoder::Outcome WebSocketDecoder::finish_frame(Frame& frame) {
    in_body_ = false;
    if (is_control(opcode_)) return finish_control(frame);
    if (!valid_) return Outcome::invalid_text;
    if (!final_) return Outcome::more;
    if (message_) {
        frame.buffer = std::move(message_);
        frame.bytes = {frame.buffer.data(), frame.buffer.size()};
        message_ = {};
    }
    const bool is_text = message_opcode_ == WebSocketOpcode::text;
    message_opcode_ = WebSocketOpcode::continuation;
    return is_text ? Outcome::text : Outcome::binary;
}

WebSocketDecoder::Outcome WebSocketDecoder::finish_control(Frame& frame) {
    frame.bytes = {control_.data(), control_bytes_};
    if (opcode_ == WebSocketOpcode::ping) return Outcome::ping;
    if (opcode_ == WebSocketOpcode::pong) return Outcome::pong;
    close_code_ = WebSocketCode::kNone;
    if (control_bytes_ == 0) return Outcome::close;
    if (control_bytes_ == 1) return Outcome::malformed;
    close_code_ = static_cast<std::uint16_t>(read_big_endian(control_.data(), 2));
    frame.bytes.remove_prefix(2);
    if (!WebSocketCode::may_be_sent(close_code_)) return Outcome::malformed;
    return is_utf8(frame.bytes) ? Outcome::close : Outcome::invalid_text;
}

std::size_t write_websocket_header(WebSocketOpcode opcode, std::size_t size, const char* mask,
                                   char* header) {
    const std::uint8_t masked = mask == nullptr ? 0 : kMasked;
    int length_bytes = 0;
    std::uint8_t length = static_cast<std::uint8_t>(size);
    if (size > 0xffff) {
        length = kLength64;
        length_bytes = 8;
    } else if (size >= kLength16) {
        length = kLength16;
        length_bytes = 2;
    }
    char* out = header;
    *out++ = static_cast<char>(kFinal | static_cast<std::uint8_t>(opcode));
    *out++ = static_cast<char>(masked | length);
    for (int i = length_bytes - 1; i >= 0; --i) {
        *out++ = static_cast<char>(static_cast<std::uint64_t>(size) >> (8 * i) & 0xff);
    }
    if (mask != nullptr) out = std::copy_n(mask, 4, out);
    return static_cast<std::size_t>(out - header);
}

BufferRef encode_websocket(WebSocketOpcode opcode, std::string_view body) {
    char header[kMaxWebSocketHeader];
    const std::size_t size = write_websocket_header(opcode, body.size(), nullptr, header);
    Buffer* buffer = Buffer::create(size + body.size());
    std::copy(body.begin(), body.end(), std::copy_n(header, size, buffer->data()));
    buffer->set_size(buffer->capacity());
    return BufferRef(buffer);
}

}  // namespace perilune
