// Framing: where one frame ends and the next begins in a stream of bytes.
//
// Purpose:   cuts frames out of what arrives, in pieces of any size, and puts headers before
//            what is sent. What each kind looks like is one row of a table.
// Threads:   a FrameDecoder belongs to the thread that polls; the functions are pure.
// Ownership: a decoder keeps only the part of a frame that has arrived: announcing 64 KB costs
//            the announcer 64 KB first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/buffer.h"
#include "perilune/status.h"

namespace perilune {

enum class FramingKind : std::uint8_t {
    raw,        // no frames: whatever has arrived
    line,       // ends with "\n" or "\r\n", which is not part of the frame
    packet,     // u16 little-endian length that includes its own two bytes (our clients)
    u16be,      // u16 big-endian length of the body
    u32be,      // u32 big-endian length of the body
    head,       // one frame: a head of HTTP, up to its empty line. Then reading pauses, for another
                // framing follows
    websocket,  // messages of RFC 6455: see websocket.h. Only after a handshake
};
inline constexpr std::size_t kFramingKinds = 7;

struct FramingRule {
    const char* name;
    std::uint8_t header;       // bytes; 0: no length in front
    bool big_endian;           // byte order of the length
    bool counts_header;        // the length includes the header
    std::uint32_t max_body;    // the largest body that the format can say
    std::string_view trailer;  // follows a body that is sent
};

const FramingRule& framing_rule(FramingKind kind);
// By the names that a script may use for a new connection: all but "websocket".
std::optional<FramingKind> framing_by_name(std::string_view name);

inline constexpr std::size_t kMaxFrameHeader = 4;

// Writes the header of a body of `size` bytes, which max_body allows, and returns its length.
std::size_t write_frame_header(FramingKind kind, std::size_t size, char* header);

// Errors: too_large (the format can't say `size`).
Status check_frame_size(FramingKind kind, std::size_t size);

// Header, body and trailer in one buffer, for one or for many receivers.
BufferRef encode_frame(FramingKind kind, std::string_view body);

struct Frame {
    std::string_view bytes;  // the body; valid until the decoder or its input changes
    BufferRef buffer;        // holds exactly `bytes` where the frame came in pieces, else empty
};

class FrameDecoder {
  public:
    enum class Outcome : std::uint8_t {
        frame,      // `frame` is set
        more,       // `input` is used up, what was left of it is kept
        malformed,  // the length is impossible (less than its own header)
        too_large,  // the length is over the limit: refused from the header alone
    };

    explicit FrameDecoder(FramingKind kind = FramingKind::raw) : kind_(kind) {}
    FramingKind kind() const { return kind_; }

    // Takes the next frame from the front of `input` and moves `input` behind it. `max_frame`
    // limits the body and may change between calls. After an error the stream is of no use.
    Outcome next(std::string_view& input, std::size_t max_frame, Frame& frame);

    // Bytes of an unfinished frame.
    std::size_t kept() const { return head_size_ + body_.size(); }
    // Bytes of memory for them.
    std::size_t reserved() const { return body_ ? body_.get()->capacity() : 0; }

  private:
    Outcome next_prefixed(std::string_view& input, std::size_t max_frame, Frame& frame);
    Outcome next_line(std::string_view& input, std::size_t max_frame, Frame& frame);
    Outcome next_head(std::string_view& input, std::size_t max_frame, Frame& frame);
    void keep(std::string_view piece, std::size_t limit);

    FramingKind kind_;
    std::uint8_t head_size_ = 0;
    char head_[kMaxFrameHeader] = {};
    BufferRef body_;
};

}  // namespace perilune
