#include "net/memory_transport.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace perilune {

// Its turns are the polling thread.
class MemoryTransport::Hand final : public Actor {
  public:
    explicit Hand(MemoryTransport& transport) : transport_(transport) {}
    void receive(MessagePtr) override { transport_.hand_out(); }

  private:
    MemoryTransport& transport_;
};

MemoryTransport::MemoryTransport(Kernel& kernel, std::int64_t latency_ns)
    : kernel_(kernel), latency_ns_(latency_ns) {}

MemoryTransport::~MemoryTransport() { stop(); }

Status MemoryTransport::start(ReadyHandler handler) {
    handler_ = std::move(handler);
    cell_ = kernel_.create_cell(std::make_unique<Hand>(*this));
    const Result<Handle> handle = kernel_.add_service(cell_, nullptr);
    if (!handle.ok()) return handle.status();
    self_ = handle.value();
    timers_ = std::make_unique<OwnerTimers>(self_);
    kernel_.launch(cell_);
    return {};
}

void MemoryTransport::stop() {
    const std::lock_guard lock(mutex_);
    if (timers_ != nullptr) kernel_.timers().cancel_all(*timers_);
    handler_ = nullptr;
    tasks_.clear();
    deliveries_.clear();
}

// ---- what is under way ----

void MemoryTransport::post(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    wake();
}

void MemoryTransport::wake() {
    if (woken_) return;
    woken_ = true;
    MessagePtr message = make_message(MessageKind::work, self_, {}, 0);
    (void)kernel_.post(message);
}

void MemoryTransport::deliver(What what, int to, std::string bytes) {
    const std::int64_t due = kernel_.clock().now_ns() + latency_ns_;
    deliveries_.push_back({due, what, to, std::move(bytes)});
    if (kernel_.add_timer(*timers_, 0, due)) return;
    deliveries_.back().due_ns = 0;  // at once, or with what is before it
    wake();
}

void MemoryTransport::hand_out() {
    std::unique_lock lock(mutex_);
    woken_ = false;
    // Tasks that these tasks post come in a turn of their own.
    for (std::size_t count = tasks_.size(); count > 0 && !tasks_.empty(); --count) {
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.unlock();
        task();
        lock.lock();
    }
    const std::int64_t now = kernel_.clock().now_ns();
    while (!deliveries_.empty() && deliveries_.front().due_ns <= now) {
        const Delivery delivery = std::move(deliveries_.front());
        deliveries_.pop_front();
        std::uint64_t token = 0;
        const std::uint32_t ready = apply(delivery, token);
        lock.unlock();
        if (ready != 0) handler_(token, ready);
        lock.lock();
    }
    if (!tasks_.empty()) wake();
}

// What its descriptor is ready for now, and the token to tell so.
std::uint32_t MemoryTransport::apply(const Delivery& delivery, std::uint64_t& token) {
    if (delivery.what == What::arrival) {
        const auto found = listeners_.find(delivery.to);
        if (found == listeners_.end() || found->second.waiting.empty()) return 0;
        token = found->second.token;
        return found->second.wanted ? kReadable : 0;
    }
    const auto found = streams_.find(delivery.to);
    if (found == streams_.end()) return 0;
    Stream& stream = found->second;
    std::uint32_t ready = 0;
    switch (delivery.what) {
        case What::bytes:
            stream.coming -= delivery.bytes.size();
            stream.inbox.erase(0, stream.read);
            stream.read = 0;
            stream.inbox += delivery.bytes;
            ready = kReadable;
            break;
        case What::end:
            stream.ended = true;
            ready = kReadable | kEnded;
            break;
        case What::reset:
            stream.reset = true;
            ready = kReadable | kBroken;
            break;
        case What::connected:
            stream.connected = true;
            ready = kWritable;
            break;
        case What::refused:
            stream.refused = true;
            ready = kBroken;
            break;
        case What::room: ready = kWritable; break;
        case What::watched:
            ready = stream.connected ? kWritable : 0;
            if (stream.read < stream.inbox.size()) ready |= kReadable;
            if (stream.ended) ready |= kReadable | kEnded;
            if (stream.reset) ready |= kReadable | kBroken;
            break;
        case What::arrival: break;
    }
    token = stream.token;
    return token == 0 ? 0 : ready;
}

// ---- listening and connecting ----

int MemoryTransport::find_listener(const Address& address) const {
    for (const auto& [descriptor, listener] : listeners_) {
        if (listener.address.port == address.port) return descriptor;
    }
    return -1;
}

int MemoryTransport::listen(Address& address, int backlog) {
    const std::lock_guard lock(mutex_);
    if (address.port == 0) {
        do {
            address.port = next_port_++;
        } while (find_listener(address) >= 0);
    }
    if (find_listener(address) >= 0) return -EADDRINUSE;
    const int descriptor = next_descriptor_++;
    Listener& listener = listeners_[descriptor];
    listener.address = address;
    listener.backlog = static_cast<std::size_t>(backlog);
    return descriptor;
}

int MemoryTransport::accept(int listener, Address& peer) {
    const std::lock_guard lock(mutex_);
    std::deque<int>& waiting = listeners_[listener].waiting;
    while (!waiting.empty()) {
        const int descriptor = waiting.front();
        waiting.pop_front();
        const auto found = streams_.find(descriptor);
        if (found == streams_.end()) continue;
        peer = found->second.remote;
        return descriptor;
    }
    return -EAGAIN;
}

int MemoryTransport::watch_listener(int listener, std::uint64_t token, bool wanted) {
    const std::lock_guard lock(mutex_);
    Listener& found = listeners_[listener];
    found.token = token;
    found.wanted = wanted;
    if (wanted && !found.waiting.empty()) deliver(What::arrival, listener);
    return 0;
}

int MemoryTransport::connect(const Address& peer) {
    const std::lock_guard lock(mutex_);
    const int descriptor = next_descriptor_++;
    Stream& near = streams_[descriptor];
    near.remote = peer;
    near.local = Address::parse("127.0.0.1", next_port_++).value();
    const int listener = find_listener(peer);
    if (listener < 0 || listeners_[listener].waiting.size() >= listeners_[listener].backlog) {
        deliver(What::refused, descriptor);
        return descriptor;
    }
    const int other = next_descriptor_++;
    Stream& far = streams_[other];
    far.remote = near.local;
    far.local = peer;
    far.peer = descriptor;
    far.connected = true;
    near.peer = other;
    listeners_[listener].waiting.push_back(other);
    deliver(What::arrival, listener);
    deliver(What::connected, descriptor);
    return descriptor;
}

int MemoryTransport::connect_result(int descriptor) {
    const std::lock_guard lock(mutex_);
    return streams_[descriptor].refused ? -ECONNREFUSED : 0;
}

int MemoryTransport::watch(int descriptor, std::uint64_t token) {
    const std::lock_guard lock(mutex_);
    streams_[descriptor].token = token;
    deliver(What::watched, descriptor);
    return 0;
}

// ---- data ----

ssize_t MemoryTransport::receive(int descriptor, char* data, std::size_t size) {
    const std::lock_guard lock(mutex_);
    Stream& stream = streams_[descriptor];
    const std::size_t count = std::min(size, stream.inbox.size() - stream.read);
    if (count == 0) {
        if (stream.reset) return -ECONNRESET;
        return stream.ended ? 0 : -EAGAIN;
    }
    std::memcpy(data, stream.inbox.data() + stream.read, count);
    stream.read += count;
    const auto peer = streams_.find(stream.peer);
    if (peer != streams_.end() && std::exchange(peer->second.full, false)) {
        deliver(What::room, stream.peer);
    }
    return static_cast<ssize_t>(count);
}

ssize_t MemoryTransport::send(int descriptor, const iovec* pieces, int count) {
    const std::lock_guard lock(mutex_);
    Stream& stream = streams_[descriptor];
    const auto peer = streams_.find(stream.peer);
    if (stream.reset || peer == streams_.end()) return -ECONNRESET;
    Stream& far = peer->second;
    const std::size_t held = far.coming + far.inbox.size() - far.read;
    std::size_t room = held >= kCapacity ? 0 : kCapacity - held;
    std::string bytes;
    for (int i = 0; i < count; ++i) {
        const std::size_t part = std::min(room, pieces[i].iov_len);
        bytes.append(static_cast<const char*>(pieces[i].iov_base), part);
        room -= part;
        if (part < pieces[i].iov_len) stream.full = true;
    }
    if (bytes.empty()) return -EAGAIN;
    const std::size_t sent = bytes.size();
    far.coming += sent;
    deliver(What::bytes, stream.peer, std::move(bytes));
    return static_cast<ssize_t>(sent);
}

void MemoryTransport::end_sending(int descriptor) {
    const std::lock_guard lock(mutex_);
    deliver(What::end, streams_[descriptor].peer);
}

void MemoryTransport::close(int descriptor, bool reset) {
    const std::lock_guard lock(mutex_);
    close_locked(descriptor, reset);
}

void MemoryTransport::close_locked(int descriptor, bool reset) {
    const auto listener = listeners_.find(descriptor);
    if (listener != listeners_.end()) {
        const std::deque<int> waiting = std::move(listener->second.waiting);
        listeners_.erase(listener);
        for (const int stream : waiting) close_locked(stream, true);
        return;
    }
    const auto found = streams_.find(descriptor);
    if (found == streams_.end()) return;
    // As a socket does: who closes with something unread resets.
    const bool unread = found->second.read < found->second.inbox.size() || found->second.coming > 0;
    const int peer = found->second.peer;
    streams_.erase(found);
    if (timers_ != nullptr && handler_) deliver(reset || unread ? What::reset : What::end, peer);
}

Address MemoryTransport::local_address(int descriptor) {
    const std::lock_guard lock(mutex_);
    const auto listener = listeners_.find(descriptor);
    return listener != listeners_.end() ? listener->second.address : streams_[descriptor].local;
}

}  // namespace perilune
