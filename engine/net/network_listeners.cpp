// Network: listeners, and what they admit.

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
    for (const std::string* part :
         {&options.certificate, &options.key, &options.ca, &options.server_name}) {
        key += *part;
        key += '\0';
    }
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

void Network::admit_peer(const std::shared_ptr<Listener>& listening_one, int descriptor,
                         const Address& peer) {
    counters_.accepted.fetch_add(1);
    Listener& listener = *listening_one;
    const ListenOptions& options = listener.options;
    if (listener.open >= options.max_connections) {
        counters_.refused_full.fetch_add(1);
        return transport_->close(descriptor, true);
    }
    std::uint32_t* from_address = nullptr;
    if (options.max_per_address != 0) {
        from_address = &listener.per_address[peer.client_key()];
        if (*from_address >= options.max_per_address) {
            counters_.refused_address.fetch_add(1);
            return transport_->close(descriptor, true);
        }
    }
    Locked c = take_connection(options.stream, listener.owner);
    if (!c) {
        counters_.refused_full.fetch_add(1);
        return transport_->close(descriptor, true);
    }
    ++listener.open;
    if (from_address != nullptr) ++*from_address;
    counters_.open.fetch_add(1);
    c->accepted = true;
    c->descriptor = descriptor;
    c->peer = peer;
    c->listener = listener.id;
    c->listened_by = listening_one;
    c->polled_id = c->id.value;
    const bool watched = transport_->watch(descriptor, c->id.value) == 0;
    if (!watched) {
        c->state = Connection::State::securing;
        c->reason = CloseReason::aborted;
        finish(std::move(c));
    } else if (listener.secure == nullptr) {
        if (!announce(std::move(c))) (void)close_listener(listener.id);
    } else {
        c->state = Connection::State::securing;
        c->secure = listener.secure->open("", kernel_.random());
        if (options.stream.handshake_ms > 0) {
            c->deadline_ns = now_ns() + options.stream.handshake_ms * kNsPerMs;
            watch(*c, c->deadline_ns);
        }
    }
}

}  // namespace perilune
