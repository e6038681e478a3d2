#include "net/framing.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace perilune {

namespace {

constexpr std::uint32_t kAny = 0xffffffff;
constexpr std::size_t kFirstPiece = 64;

// Indexed by FramingKind.
constexpr std::array<FramingRule, kFramingKinds> kRules = {{
    {"raw", 0, false, false, kAny, ""},
    {"line", 0, false, false, kAny, "\n"},
    {"packet", 2, false, true, 0xffff - 2, ""},
    {"u16be", 2, true, false, 0xffff, ""},
    {"u32be", 4, true, false, kAny, ""},
    {"head", 0, false, false, kAny, ""},
    {"websocket", 0, false, false, kAny, ""},
}};

// What the length field says, header included.
std::uint64_t stated_total(const FramingRule& rule, const char* header) {
    std::uint64_t length = 0;
    for (int i = 0; i < rule.header; ++i) {
        const int at = rule.big_endian ? i : rule.header - 1 - i;
        length = length << 8 | static_cast<unsigned char>(header[at]);
    }
    return rule.counts_header ? length : length + rule.header;
}

}  // namespace

const FramingRule& framing_rule(FramingKind kind) { return kRules[static_cast<std::size_t>(kind)]; }

std::optional<FramingKind> framing_by_name(std::string_view name) {
    for (std::size_t i = 0; i < kRules.size(); ++i) {
        const FramingKind kind = static_cast<FramingKind>(i);
        if (name == kRules[i].name && kind != FramingKind::websocket) return kind;
    }
    return std::nullopt;
}

std::size_t write_frame_header(FramingKind kind, std::size_t size, char* header) {
    const FramingRule& rule = framing_rule(kind);
    std::size_t length = rule.counts_header ? size + rule.header : size;
    for (int i = 0; i < rule.header; ++i) {
        header[rule.big_endian ? rule.header - 1 - i : i] = static_cast<char>(length & 0xff);
        length >>= 8;
    }
    return rule.header;
}

Status check_frame_size(FramingKind kind, std::size_t size) {
    const FramingRule& rule = framing_rule(kind);
    if (size <= rule.max_body) return {};
    return Status::error(StatusCode::too_large, "a frame of %zu bytes: %s carries at most %u", size,
                         rule.name, rule.max_body);
}

BufferRef encode_frame(FramingKind kind, std::string_view body) {
    const FramingRule& rule = framing_rule(kind);
    Buffer* buffer = Buffer::create(rule.header + body.size() + rule.trailer.size());
    char* out = buffer->data();
    out += write_frame_header(kind, body.size(), out);
    out = std::copy(body.begin(), body.end(), out);
    std::copy(rule.trailer.begin(), rule.trailer.end(), out);
    buffer->set_size(buffer->capacity());
    return BufferRef(buffer);
}

FrameDecoder::Outcome FrameDecoder::next(std::string_view& input, std::size_t max_frame,
                                         Frame& frame) {
    frame.buffer = {};
    if (framing_rule(kind_).header != 0) return next_prefixed(input, max_frame, frame);
    if (kind_ == FramingKind::line) return next_line(input, max_frame, frame);
    if (kind_ == FramingKind::head) return next_head(input, max_frame, frame);
    if (input.empty()) return Outcome::more;
    frame.bytes = input;
    input = {};
    return Outcome::frame;
}

FrameDecoder::Outcome FrameDecoder::next_prefixed(std::string_view& input, std::size_t max_frame,
                                                  Frame& frame) {
    const FramingRule& rule = framing_rule(kind_);
    const bool fresh = head_size_ == 0;
    const char* header = input.data();
    if (!fresh || input.size() < rule.header) {
        const std::size_t count = std::min<std::size_t>(rule.header - head_size_, input.size());
        std::copy_n(input.data(), count, head_ + head_size_);
        head_size_ = static_cast<std::uint8_t>(head_size_ + count);
        input.remove_prefix(count);
        if (head_size_ < rule.header) return Outcome::more;
        header = head_;
    }
    const std::uint64_t total = stated_total(rule, header);
    if (total < rule.header) return Outcome::malformed;
    const std::uint64_t length = total - rule.header;
    if (length > max_frame) return Outcome::too_large;
    if (header == input.data()) {
        if (input.size() >= total) {  // most frames: whole, in place
            frame.bytes = input.substr(rule.header, length);
            input.remove_prefix(total);
            return Outcome::frame;
        }
        std::copy_n(header, rule.header, head_);
        head_size_ = rule.header;
        input.remove_prefix(rule.header);
    }
    const std::size_t missing = length - body_.size();
    if (body_.size() == 0 && input.size() >= missing) {  // only the header came apart
        frame.bytes = input.substr(0, missing);
        input.remove_prefix(missing);
        head_size_ = 0;
        body_ = {};
        return Outcome::frame;
    }
    const std::size_t count = std::min(missing, input.size());
    keep(input.substr(0, count), length);
    input.remove_prefix(count);
    if (count < missing) return Outcome::more;
    frame.buffer = std::move(body_);
    frame.bytes = {frame.buffer.data(), frame.buffer.size()};
    head_size_ = 0;
    return Outcome::frame;
}

FrameDecoder::Outcome FrameDecoder::next_line(std::string_view& input, std::size_t max_frame,
                                              Frame& frame) {
    // Room for the "\r" that may end a line.
    const std::size_t limit = max_frame + 1;
    const std::size_t end = input.find('\n');
    const std::size_t length = end == std::string_view::npos ? input.size() : end;
    if (body_.size() + length > limit) return Outcome::too_large;
    if (end == std::string_view::npos) {
        keep(input, limit);
        input = {};
        return Outcome::more;
    }
    if (body_.size() == 0) {
        frame.bytes = input.substr(0, end);
        body_ = {};
    } else {
        keep(input.substr(0, end), limit);
        frame.buffer = std::move(body_);
        frame.bytes = {frame.buffer.data(), frame.buffer.size()};
    }
    input.remove_prefix(end + 1);
    if (!frame.bytes.empty() && frame.bytes.back() == '\r') {
        frame.bytes.remove_suffix(1);
        if (frame.buffer) frame.buffer.get()->set_size(frame.bytes.size());
    }
    return frame.bytes.size() > max_frame ? Outcome::too_large : Outcome::frame;
}

FrameDecoder::Outcome FrameDecoder::next_head(std::string_view& input, std::size_t max_frame,
                                              Frame& frame) {
    constexpr std::string_view kEnd = "\r\n\r\n";
    const std::size_t before = body_.size();
    const std::size_t room = max_frame - std::min(max_frame, before);
    const std::string_view piece = input.substr(0, std::min(input.size(), room));
    keep(piece, max_frame);
    if (body_.size() == 0) return input.empty() ? Outcome::more : Outcome::too_large;
    const std::string_view all(body_.data(), body_.size());
    // The end may have begun in what came earlier.
    const std::size_t end = all.find(kEnd, before - std::min<std::size_t>(before, kEnd.size() - 1));
    if (end == std::string_view::npos) {
        if (piece.size() < input.size()) return Outcome::too_large;
        input = {};
        return Outcome::more;
    }
    const std::size_t size = end + kEnd.size();
    input.remove_prefix(size - before);
    body_.get()->set_size(size);
    frame.buffer = std::move(body_);
    frame.bytes = {frame.buffer.data(), size};
    return Outcome::frame;
}

// Appends `piece`. The room doubles with what has arrived and never passes `limit`.
void FrameDecoder::keep(std::string_view piece, std::size_t limit) {
    if (piece.empty()) return;
    const std::size_t used = body_.size();
    const std::size_t needed = used + piece.size();
    if (reserved() < needed) {
        const std::size_t room = std::max({needed, 2 * used, kFirstPiece});
        BufferRef larger(Buffer::create(std::max(needed, std::min(room, limit))));
        if (used != 0) std::memcpy(larger.get()->data(), body_.data(), used);
        body_ = std::move(larger);
    }
    std::memcpy(body_.get()->data() + used, piece.data(), piece.size());
    body_.get()->set_size(needed);
}

}  // namespace perilune
