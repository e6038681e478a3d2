// Message: what one service gives another, and the pool its memory comes from.
//
// Purpose:   one block of three cache lines; a small payload lives in it, a large one in a
//            counted buffer that several messages may share.
// Threads:   a message belongs to one owner at a time and is handed over whole.
// Ownership: MessagePtr owns; a mailbox owns what is in it. make_message() and the deleter
//            use a cache of the calling thread, which trades batches with a shared store.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "core/buffer.h"
#include "core/ids.h"
#include "core/payload.h"
#include "perilune/call.h"

namespace perilune {

enum class MessageKind : std::uint8_t {
    send,      // a command that nobody waits for
    call,      // a command whose caller waits: answered once by reply or failure
    reply,     // results of the call named by `session`
    failure,   // the call named by `session` failed; `detail` is an Outcome
    timer,     // timer `session` of the receiver is due; `id` is its TimerId, `detail` 1: repeats
    socket,    // `detail` is a SocketEvent of connection `id`
    datagram,  // `detail` is a UdpEvent of socket or peer `id`
    packet,    // of a client, or for one (`detail` is a PacketWay); `id` is its session's key
    down,      // the service `from` that the receiver monitors has died
    work,      // blocking work is done; `session` tells which
    database,  // `detail` is a DatabaseEvent of connection or database `id`
    start,     // begin the service `to`; answered when it has started
    link,      // `from` and the receiver are bound to each other
    ready,     // the receiver has told itself to go on with what it has begun
    // On the control list, looked at before each message (see is_control):
    stop,     // run on_stop, then die
    kill,     // die at once
    reload,   // load the script again; `session` is answered
    inspect,  // a debug command; `session` is answered
    shrink,   // give up what can be had again: compiled code, free memory
};

inline bool is_control(MessageKind kind) { return kind >= MessageKind::stop; }

struct Message {
    static constexpr std::size_t kInlineSize = 136;

    Message* next = nullptr;
    Handle to;
    Handle from;
    std::uint64_t session = 0;
    std::uint64_t id = 0;
    MessageKind kind = MessageKind::send;
    std::uint8_t detail = 0;
    std::uint8_t hops : 7;   // redirects so far
    bool counted : 1;        // in the load of its receiver's slot, see Registry::Slot
    std::uint8_t parts = 0;  // of a joined one: how many are left in it, see MessageJoiner
    std::uint32_t size = 0;  // bytes of the payload
    Buffer* buffer = nullptr;
    char inline_data[kInlineSize];

    const char* data() const { return buffer == nullptr ? inline_data : buffer->data(); }
    std::string_view payload() const { return {data(), size}; }

    // What it counts in a mailbox: a joined one as much as its parts.
    std::uint64_t count() const { return parts == 0 ? 1 : parts; }
    std::uint64_t weight() const {
        if (parts != 0) return parts * sizeof(Message);
        return sizeof(Message) + (buffer == nullptr ? 0 : size);
    }

    // A writer whose first bytes go into the message itself. The payload written before is
    // dropped; finish(writer) makes what was written the payload.
    PayloadWriter writer() {
        drop_payload();
        return PayloadWriter(inline_data, kInlineSize);
    }
    void finish(PayloadWriter& writer) {
        size = static_cast<std::uint32_t>(writer.size());
        buffer = writer.take_buffer().take();
    }
    // The payload, to be changed in place. A buffer that others have, too, is copied first.
    char* own_data();
    void set_payload(std::string_view bytes);
    void set_payload(BufferRef shared) {
        drop_payload();
        size = static_cast<std::uint32_t>(shared.size());
        buffer = shared.take();
    }
    void drop_payload() {
        if (buffer != nullptr) {
            buffer->release();
            buffer = nullptr;
        }
        size = 0;
    }
};

static_assert(sizeof(Message) == 192);

struct MessageDeleter {
    void operator()(Message* message) const;
};
using MessagePtr = std::unique_ptr<Message, MessageDeleter>;

// An empty message of `kind`. Any thread. Never null.
MessagePtr make_message(MessageKind kind, Handle to, Handle from, std::uint64_t session);

// The first part of a joined message, which has more than that. Its owner.
MessagePtr split_off(Message& joined);
// A joined message with one part left becomes that one. Its owner.
void become_part(Message& joined);

// Joins messages that differ in small payloads alone. Posting the result costs as much as posting
// one message, and what waits takes the payloads' memory; it counts as all its parts, and a
// mailbox hands them out one by one, so that nobody behind it knows of joined messages.
class MessageJoiner {
  public:
    static constexpr std::uint8_t kMaxParts = 32;

    // What it has so far, or null.
    const Message* message() const { return message_.get(); }
    bool full() const { return parts_ == kMaxParts; }

    // What all parts have but their payloads, which are of kInlineSize at most and come by add(),
    // while it isn't full; `rest`: bytes of those that may follow.
    void begin(MessagePtr message) { message_ = std::move(message); }
    void add(std::string_view payload, std::size_t rest);
    // An ordinary message where there is one part. Null: nothing has begun.
    MessagePtr take();

  private:
    void make_room(std::size_t bytes);
    void append(std::string_view payload);

    MessagePtr message_;
    std::uint8_t parts_ = 0;
};

}  // namespace perilune
