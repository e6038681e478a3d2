#include "core/message.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace perilune {

const char* outcome_name(Outcome outcome) {
    switch (outcome) {
        case Outcome::ok: return "ok";
        case Outcome::error: return "error";
        case Outcome::timeout: return "timeout";
        case Outcome::dead: return "dead";
        case Outcome::overloaded: return "overloaded";
        case Outcome::link_lost: return "link_lost";
        case Outcome::cancelled: return "cancelled";
    }
    return "unknown";
}

void Message::set_payload(std::string_view bytes) {
    PayloadWriter out = writer();
    out.append(bytes.data(), bytes.size());
    finish(out);
}

char* Message::own_data() {
    if (buffer == nullptr) return inline_data;
    if (buffer->is_shared()) set_payload(BufferRef::copy_of(buffer->data(), size));
    return buffer->data();
}

namespace {

#if defined(PERILUNE_ASAN)
// Under AddressSanitizer each message is a block of its own, so that a use after free shows.
void* take_block() { return ::operator new(sizeof(Message)); }
void give_block(void* block) { ::operator delete(block); }
#else

constexpr std::size_t kBatch = 256;        // blocks that a thread and the store trade at once
constexpr std::size_t kStoreBatches = 64;  // batches that the store keeps; more are freed

struct FreeBlock {
    FreeBlock* next;
};

// Batches of free blocks that one thread has too many of and another too few: in a stream
// from one core to another the receiver frees what the sender must allocate.
class BlockStore {
  public:
    FreeBlock* take() {
        const std::lock_guard lock(mutex_);
        if (batches_.empty()) return nullptr;
        FreeBlock* batch = batches_.back();
        batches_.pop_back();
        return batch;
    }
    bool give(FreeBlock* batch) {
        const std::lock_guard lock(mutex_);
        if (batches_.size() >= kStoreBatches) return false;
        batches_.push_back(batch);
        return true;
    }

  private:
    std::mutex mutex_;
    std::vector<FreeBlock*> batches_;
};

// Blocks carry no state of a node, so all nodes of a process share the store. It is never
// destroyed: threads may free messages while the process ends.
BlockStore& block_store() {
    static BlockStore* const store = new BlockStore;
    return *store;
}

void free_chain(FreeBlock* block) {
    while (block != nullptr) {
        FreeBlock* next = block->next;
        ::operator delete(block);
        block = next;
    }
}

// Two batches a thread: `current_` serves, `spare_` saves trips to the store when a thread's
// needs swing around a batch's edge (the magazines of Bonwick's slab allocator).
class BlockCache {
  public:
    ~BlockCache() {
        free_chain(current_);
        free_chain(spare_);
    }
    void* take() {
        if (current_ == nullptr) {
            current_ = spare_ != nullptr ? std::exchange(spare_, nullptr) : block_store().take();
            count_ = current_ == nullptr ? 0 : kBatch;
            if (current_ == nullptr) return ::operator new(sizeof(Message));
        }
        FreeBlock* block = current_;
        current_ = block->next;
        --count_;
        return block;
    }
    void give(void* memory) {
        if (count_ == kBatch) {
            if (spare_ != nullptr && !block_store().give(spare_)) free_chain(spare_);
            spare_ = current_;
            current_ = nullptr;
            count_ = 0;
        }
        FreeBlock* block = static_cast<FreeBlock*>(memory);
        block->next = current_;
        current_ = block;
        ++count_;
    }

  private:
    FreeBlock* current_ = nullptr;
    FreeBlock* spare_ = nullptr;  // empty or exactly a batch
    std::size_t count_ = 0;
};

thread_local BlockCache block_cache;

void* take_block() { return block_cache.take(); }
void give_block(void* block) { block_cache.give(block); }
#endif

}  // namespace

void MessageDeleter::operator()(Message* message) const {
    message->drop_payload();
    give_block(message);
}

MessagePtr make_message(MessageKind kind, Handle to, Handle from, std::uint64_t session) {
    Message* message = static_cast<Message*>(take_block());
    // The payload's room stays uninitialised: it is written before it is read.
    message->next = nullptr;
    message->to = to;
    message->from = from;
    message->session = session;
    message->id = 0;
    message->kind = kind;
    message->detail = 0;
    message->hops = 0;
    message->counted = false;
    message->parts = 0;
    message->size = 0;
    message->buffer = nullptr;
    return MessagePtr(message);
}

// In the buffer of a joined message each part is a byte for its size and its payload; Message::size
// is what is left of them.
static_assert(Message::kInlineSize <= UINT8_MAX);

namespace {

std::string_view next_part(const Message& joined) {
    const char* begin = joined.buffer->data() + joined.buffer->size() - joined.size;
    return {begin + 1, static_cast<unsigned char>(*begin)};
}

}  // namespace

MessagePtr split_off(Message& joined) {
    MessagePtr part = make_message(joined.kind, joined.to, joined.from, joined.session);
    part->id = joined.id;
    part->detail = joined.detail;
    part->counted = joined.counted;
    const std::string_view payload = next_part(joined);
    std::memcpy(part->inline_data, payload.data(), payload.size());
    part->size = static_cast<std::uint32_t>(payload.size());
    joined.size -= 1 + part->size;
    --joined.parts;
    return part;
}

void become_part(Message& joined) {
    const std::string_view payload = next_part(joined);
    const BufferRef buffer(std::exchange(joined.buffer, nullptr));
    std::memcpy(joined.inline_data, payload.data(), payload.size());
    joined.size = static_cast<std::uint32_t>(payload.size());
    joined.parts = 0;
}

void MessageJoiner::add(std::string_view payload, std::size_t rest) {
    if (parts_ == 0) {
        message_->set_payload(payload);
    } else {
        if (parts_ == 1) make_room(message_->size + payload.size() + rest + kMaxParts);
        append(payload);
    }
    ++parts_;
}

// The first payload moves from the message to a buffer for `bytes`, or for as much as can come.
void MessageJoiner::make_room(std::size_t bytes) {
    constexpr std::size_t kMost = kMaxParts * (1 + Message::kInlineSize);
    message_->buffer = Buffer::create(std::min(bytes, kMost));
    append({message_->inline_data, message_->size});
}

void MessageJoiner::append(std::string_view payload) {
    Buffer& buffer = *message_->buffer;
    char* end = buffer.data() + buffer.size();
    *end = static_cast<char>(payload.size());
    std::memcpy(end + 1, payload.data(), payload.size());
    buffer.set_size(buffer.size() + 1 + payload.size());
}

MessagePtr MessageJoiner::take() {
    if (parts_ > 1) {
        message_->size = static_cast<std::uint32_t>(message_->buffer->size());
        message_->parts = parts_;
    }
    parts_ = 0;
    return std::move(message_);
}

}  // namespace perilune
