// Network: listeners, and what they admit.

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "net/network.h"
#include "net/tls.h"

namespace perilune {

namespace {

constexpr int kAcceptBatch = 64;  // connections of one listener before others get a turn
constexpr std::int64_t kAcceptRetryNs = 100 * kNsPerMs;
constexpr std::size_t kClientContexts = 64;  // kept; more are made anew

std::string error_text(int error) { return ::strerror(error < 0 ? -error : error); }

bool out_of_descriptors(int error) {
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

bool is_exempt(const ListenOptions& options, const Address& key) {
    return std::ranges::find(options.exempt, key) != options.exempt.end();
}

// A file's name, and what is another when there is something else in it.
std::string name_and_state(const std::string& path) {
    struct stat state {};
    if (path.empty() || ::stat(path.c_str(), &state) != 0) return path;
    const auto text = [](auto number) { return '\0' + std::to_string(number); };
    return path + text(state.st_ino) + text(state.st_size) + text(state.st_mtim.tv_sec) +
           text(state.st_mtim.tv_nsec);
}

}  // namespace

Result<ListenerId> Network::listen(Handle owner, const ListenOptions& options) {
    if (stopping_.load()) return Status::error(StatusCode::unavailable, "the node is stopping");
    const Result<Address> wanted = Address::parse(options.host, options.port);
    if (!wanted.ok()) return wanted.status();
    Address address = wanted.value();
    const int descriptor = transport_->listen(address, options.backlog);
    if (descriptor == -EADDRINUSE) {
        return Status::error(StatusCode::exists, "%s is in use", address.text().c_str());
    }
    if (descriptor < 0) {
        return Status::error(
            descriptor == -EADDRNOTAVAIL ? StatusCode::invalid : StatusCode::unavailable,
            "can't listen at %s: %s", address.text().c_str(), error_text(descriptor).c_str());
    }
    // Accepted sockets inherit it, which saves a system call for each.
    transport_->set_no_delay(descriptor, options.stream.no_delay);
    auto made = std::make_shared<Listener>();
    Listener& listener = *made;
    listener.id = listener_ids_.add();
    listener.owner = owner;
    listener.options = options;
    listener.address = address;
    listener.descriptor = descriptor;
    listener.secure = options.secure;
    const ListenerId id = listener.id;
    {
        const std::lock_guard lock(listeners_mutex_);
        const auto other =
            std::ranges::find(listeners_, owner, [](const auto& l) { return l->owner; });
        listener.handshakes =
            other == listeners_.end() ? std::make_shared<Handshakes>() : (*other)->handshakes;
        listeners_.push_back(std::move(made));
    }
    counters_.listeners.fetch_add(1);
    const int watched = transport_->watch_listener(descriptor, id.value | kListenerToken, true);
    if (watched < 0) {
        (void)close_listener(id);
        return Status::error(StatusCode::unavailable, "can't listen at %s: %s",
                             address.text().c_str(), error_text(watched).c_str());
    }
    return id;
}

std::vector<std::shared_ptr<Listener>> Network::listeners() const {
    const std::lock_guard lock(listeners_mutex_);
    return listeners_;
}

std::shared_ptr<Listener> Network::find_listener(ListenerId id) const {
    const std::lock_guard lock(listeners_mutex_);
    const auto found = std::ranges::find(listeners_, id, [](const auto& l) { return l->id; });
    return found == listeners_.end() ? nullptr : *found;
}

Result<Address> Network::listener_address(ListenerId id) const {
    const std::shared_ptr<Listener> listener = find_listener(id);
    if (listener == nullptr) return Status::error(StatusCode::dead, "the listener is closed");
    return listener->address;
}

std::vector<Address> Network::listening() const {
    std::vector<Address> addresses;
    for (const auto& listener : listeners()) addresses.push_back(listener->address);
    return addresses;
}

Status Network::close_listener(ListenerId id) {
    const std::shared_ptr<Listener> listener = find_listener(id);
    if (listener == nullptr || listener->closed.exchange(true)) {
        return Status::error(StatusCode::dead, "the listener is closed");
    }
    counters_.listeners.fetch_sub(1);
    transport_->post([this, listener] {
        transport_->close(listener->descriptor, false);
        const std::lock_guard lock(listeners_mutex_);
        std::erase(listeners_, listener);
        listener_ids_.remove(listener->id);
    });
    return {};
}

Status Network::reload_certificate(ListenerId id) {
    const std::shared_ptr<Listener> listener = find_listener(id);
    if (listener == nullptr) return Status::error(StatusCode::dead, "the listener is closed");
    const auto& current = listener->options.secure;
    if (current == nullptr) {
        return Status::error(StatusCode::invalid, "the listener has no certificate: it is plain");
    }
    Result<std::shared_ptr<const SecureContext>> loaded = current->reload();
    if (!loaded.ok()) return loaded.status();
    transport_->post([listener, made = std::move(loaded.value())] { listener->secure = made; });
    return {};
}

Result<std::shared_ptr<const SecureContext>> Network::client_tls(const TlsOptions& options) {
    std::string key = options.verify ? "1" : "0";
    for (const std::string* file : {&options.certificate, &options.key, &options.ca}) {
        key += name_and_state(*file) + '\0';
    }
    key += options.server_name;
    const std::lock_guard lock(client_tls_mutex_);
    const auto found = client_tls_.find(key);
    if (found != client_tls_.end()) return found->second;
    Result<std::shared_ptr<const SecureContext>> made = TlsContext::client(options);
    if (!made.ok()) return made;
    if (client_tls_.size() >= kClientContexts) client_tls_.clear();
    client_tls_.emplace(std::move(key), made.value());
    return made;
}

void Network::on_accept(ListenerId id) {
    const std::shared_ptr<Listener> listener = find_listener(id);
    if (listener == nullptr || listener->paused || listener->closed.load()) return;
    // Two messages a connection may come in faster than a slow owner takes them.
    Registry::Slot* slot = kernel_.registry().find(listener->owner);
    if (slot != nullptr && !has_room(*slot)) {
        return pause_accept(*listener, counters_.accept_waits);
    }
    for (int i = 0; i < kAcceptBatch && !listener->closed.load(); ++i) {
        Address peer;
        const int descriptor = transport_->accept(listener->descriptor, peer);
        if (descriptor >= 0) {
            admit_peer(listener, descriptor, peer);
        } else if (descriptor == -EAGAIN) {
            return;
        } else if (out_of_descriptors(descriptor)) {
            return pause_accept(*listener, counters_.accept_pauses);
        }  // else this one has gone again: the next
    }
}

void Network::pause_accept(Listener& listener, std::atomic<std::uint64_t>& counter) {
    counter.fetch_add(1);
    // Without a timer that ends the pause it just tries again.
    if (!kernel_.add_timer(*timers_, kAcceptTimer, now_ns() + kAcceptRetryNs)) return;
    listener.paused = true;
    transport_->watch_listener(listener.descriptor, listener.id.value | kListenerToken, false);
    paused_listeners_.push_back(listener.id);
}

void Network::resume_accepts() {
    for (const ListenerId id : std::exchange(paused_listeners_, {})) {
        const std::shared_ptr<Listener> listener = find_listener(id);
        if (listener == nullptr || listener->closed.load()) continue;
        listener->paused = false;
        transport_->watch_listener(listener->descriptor, id.value | kListenerToken, true);
    }
}

// What counts the refusal of a peer that is over a limit; null: it may come.
std::atomic<std::uint64_t>* Network::refusal(Listener& listener, const Address& peer) {
    const ListenOptions& options = listener.options;
    const Address key = peer.client_key();
    const bool exempt = is_exempt(options, key);
    const auto is_full = [&](const auto& per_address, std::uint32_t most) {
        if (most == 0 || exempt) return false;
        const auto found = per_address.find(key);
        return found != per_address.end() && found->second >= most;
    };
    if (listener.open >= options.max_connections) return &counters_.refused_full;
    if (is_full(listener.per_address, options.max_per_address)) return &counters_.refused_address;
    if (listener.secure == nullptr && !options.until_upgrade) return nullptr;
    const Handshakes& handshakes = *listener.handshakes;
    if ((options.max_handshakes != 0 && handshakes.count >= options.max_handshakes) ||
        is_full(handshakes.per_address, options.max_handshakes_per_address)) {
        return &counters_.refused_handshakes;
    }
    return nullptr;
}

// Counts it, and limits its time.
void Network::begin_handshake(Connection& c) {
    c.in_handshake = true;
    Handshakes& handshakes = *c.listened_by->handshakes;
    ++handshakes.count;
    ++handshakes.per_address[c.peer.client_key()];
    counters_.handshakes.fetch_add(1);
    const std::int32_t limit_ms = c.listened_by->options.stream.handshake_ms;
    if (limit_ms == 0) return;
    c.deadline_ns = c.began_ns + limit_ms * kNsPerMs;
    watch(c, c.deadline_ns);
}

void Network::end_handshake(Connection& c) {
    if (!std::exchange(c.in_handshake, false)) return;
    Handshakes& handshakes = *c.listened_by->handshakes;
    --handshakes.count;
    count_down(handshakes.per_address, c.peer);
    counters_.handshakes.fetch_sub(1);
}

void Network::count_down(std::unordered_map<Address, std::uint32_t, AddressHash>& per_address,
                         const Address& peer) {
    const auto found = per_address.find(peer.client_key());
    if (found != per_address.end() && --found->second == 0) per_address.erase(found);
}

void Network::admit_peer(const std::shared_ptr<Listener>& listening_one, int descriptor,
                         const Address& peer) {
    counters_.accepted.fetch_add(1);
    Listener& listener = *listening_one;
    const ListenOptions& options = listener.options;
    if (std::atomic<std::uint64_t>* counter = refusal(listener, peer)) {
        counter->fetch_add(1);
        return transport_->close(descriptor, true);
    }
    Locked c = take_connection(options.stream, listener.owner);
    if (!c) {
        counters_.refused_full.fetch_add(1);
        return transport_->close(descriptor, true);
    }
    ++listener.open;
    if (options.max_per_address != 0) ++listener.per_address[peer.client_key()];
    counters_.open.fetch_add(1);
    c->accepted = true;
    c->descriptor = descriptor;
    c->peer = peer;
    c->listener = listener.id;
    c->listened_by = listening_one;
    c->polled_id = c->id.value;
    const bool watched = transport_->watch(descriptor, c->id.value) == 0;
    if (listener.secure != nullptr || options.until_upgrade) begin_handshake(*c);
    if (!watched) {
        c->state = Connection::State::securing;
        c->reason = CloseReason::aborted;
        finish(std::move(c));
    } else if (listener.secure == nullptr) {
        if (!announce(std::move(c))) (void)close_listener(listener.id);
    } else {
        c->state = Connection::State::securing;
        c->secure = listener.secure->open("", kernel_.random());
    }
}

}  // namespace perilune
