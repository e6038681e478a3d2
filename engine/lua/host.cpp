#include "lua/host.h"

#include <algorithm>

#include "core/codec.h"
#include "data/databases.h"
#include "lua/lua_codec.h"
#include "lua/lua_core.h"
#include "lua/lua_crypto.h"
#include "lua/lua_dns.h"
#include "lua/lua_enet.h"
#include "lua/lua_file.h"
#include "lua/lua_gate.h"
#include "lua/lua_http.h"
#include "lua/lua_mysql.h"
#include "lua/lua_packet.h"
#include "lua/lua_password.h"
#include "lua/lua_redis.h"
#include "lua/lua_socket.h"
#include "lua/lua_sqlite.h"
#include "lua/lua_udp.h"
#include "lua/vm.h"
#include "net/network.h"
#include "net/udp.h"

namespace perilune {

namespace {

constexpr std::uint64_t kGroupMailboxes = 4;  // room in a group's mailbox, in those of services

PagePool::Options pool_options(bool seeded) {
    PagePool::Options options;
    // A fixed place, so that a seeded run has the same addresses, on which pairs depends.
    if (seeded) options.base = std::uintptr_t{0x4000000000};
    return options;
}

// Services of the engine's own, like the supervisor's, are found behind the game's.
std::vector<std::string> service_folders(const LuaHostOptions& options) {
    std::vector<std::string> folders = options.script_folders;
    folders.push_back(options.library_folder);
    return folders;
}

}  // namespace

std::string LuaHostOptions::from_base(std::string_view path) const {
    if (path.empty() || path[0] == '/' || base_folder.empty() || base_folder == ".") {
        return std::string(path);
    }
    return base_folder + "/" + std::string(path);
}

Result<std::unique_ptr<LuaHost>> LuaHost::create(Kernel& kernel, const Outside& outside,
                                                 LuaHostOptions options) {
    Result<std::unique_ptr<PagePool>> pool = PagePool::create(pool_options(kernel.seeded()));
    if (!pool.ok() && kernel.seeded()) {
        // Another seeded node of this process has the place: its addresses stay reproducible.
        kernel.log().warn("host", "%s", pool.status().message());
        pool = PagePool::create(PagePool::Options{});
    }
    if (!pool.ok()) return pool.status();
    return std::unique_ptr<LuaHost>(
        new LuaHost(kernel, outside, std::move(options), std::move(pool.value())));
}

LuaHost::LuaHost(Kernel& kernel, const Outside& outside, LuaHostOptions options,
                 std::unique_ptr<PagePool> pages)
    : kernel_(kernel),
      outside_(outside),
      options_(std::move(options)),
      pages_(std::move(pages)),
      scripts_(service_folders(options_)),
      library_({options_.library_folder}) {
    kernel.set_on_control_dropped([this](const Message& message) {
        // A service that died with the request in its mailbox has nothing to reload.
        if (message.kind == MessageKind::reload) reload_done(kReloadSkipped);
    });
    add_module("perilune.core", push_core_library);
    add_module("perilune.codec", push_codec_library);
    add_module("perilune.packet", push_packet_library);
    add_module("perilune.crypto", push_crypto_library);
    add_module("perilune.file",
               [this](lua_State* L) { push_file_library(L, options_.data_folder.c_str()); });
    add_module("perilune.native.dns", push_dns_library);
    add_module("perilune.native.password", push_password_library);
    add_module("perilune.native.http", [](lua_State* L) {
        push_http_library(L);
        Vm::of(L).needs_close();  // parsers hold memory that isn't Lua's
    });
    if (network() != nullptr) {
        add_module("perilune.native.socket", push_socket_library);
        add_module("perilune.gate", push_gate_library);
        add_module("perilune.native.redis", [](lua_State* L) {
            push_redis_library(L);
            Vm::of(L).needs_close();  // readers hold memory that isn't Lua's
        });
    }
    if (udp() != nullptr) {
        add_module("perilune.native.udp", push_udp_library);
        add_module("perilune.native.enet", push_enet_library);
    }
    if (databases() != nullptr) {
        add_module("perilune.native.mysql", push_mysql_library);
        add_module("perilune.native.sqlite", push_sqlite_library);
    }
}

LuaHost::~LuaHost() = default;

void LuaHost::add_module(const std::string& name, Opener opener) {
    modules_[name] = std::move(opener);
}

const LuaHost::Opener* LuaHost::find_module(std::string_view name) const {
    const auto found = modules_.find(name);
    return found == modules_.end() ? nullptr : &found->second;
}

bool LuaHost::is_trusted(std::string_view script) const {
    return std::find(options_.trusted.begin(), options_.trusted.end(), script) !=
           options_.trusted.end();
}

// --- starting and stopping ---

Result<LuaHost::Member> LuaHost::create_vm(const std::string& group, std::size_t memory_bytes) {
    auto actor = std::make_unique<Vm>(*this, group,
                                      memory_bytes != 0 ? memory_bytes : options_.memory_bytes);
    Member member{nullptr, actor.get(), 0};
    member.cell = kernel_.create_cell(std::move(actor));
    Handle own;
    if (!group.empty()) {
        // Each of its services has the usual limit: one that is flooded leaves room for others.
        const KernelOptions& options = kernel_.options();
        member.cell->mailbox.open(kGroupMailboxes * options.mailbox_messages,
                                  kGroupMailboxes * options.mailbox_bytes);
        const Result<Handle> handle = kernel_.add_service(member.cell, nullptr);
        if (!handle.ok()) {
            discard(member.cell);
            return handle.status();
        }
        own = handle.value();
    }
    member.vm->set_cell(member.cell, own);
    return member;
}

void LuaHost::discard(ActorCell* cell) {
    cell->finished = true;
    kernel_.launch(cell);
}

Result<LuaHost::Placed> LuaHost::place_alone(const SpawnRequest& request) {
    const Result<Member> made = create_vm("", request.memory_bytes);
    if (!made.ok()) return made.status();
    ActorCell* cell = made.value().cell;
    const Result<Handle> handle = kernel_.add_service(cell, nullptr, request.mailbox, kLuaService);
    if (handle.ok()) return Placed{handle.value(), cell, true};
    discard(cell);
    return handle.status();
}

Result<LuaHost::Placed> LuaHost::place_in_group(const SpawnRequest& request) {
    // What waits for a light service is bounded on its own, before its VM's mailbox is.
    const std::uint32_t most = request.mailbox != 0
                                   ? request.mailbox
                                   : static_cast<std::uint32_t>(kernel_.options().mailbox_messages);
    // Under the lock, so that a VM which loses its last service is not chosen as it ends.
    const std::lock_guard lock(groups_mutex_);
    std::vector<Member>& vms = groups_[request.group];
    const auto room = std::find_if(vms.rbegin(), vms.rend(), [&](const Member& member) {
        return member.services < options_.group_services;
    });
    if (room != vms.rend()) {
        std::swap(*room, vms.back());  // the last one is looked at first
        const Result<Handle> handle =
            kernel_.add_service(vms.back().cell, nullptr, most, kLuaService);
        if (!handle.ok()) return handle.status();
        ++vms.back().services;
        return Placed{handle.value(), vms.back().cell, false};
    }
    Status status;
    const Result<Member> made = create_vm(request.group, request.memory_bytes);
    if (made.ok()) {
        Member member = made.value();
        const Result<Handle> handle = kernel_.add_service(member.cell, nullptr, most, kLuaService);
        if (handle.ok()) {
            ++member.services;
            vms.push_back(member);
            return Placed{handle.value(), member.cell, true};
        }
        discard(member.cell);
        status = handle.status();
    } else {
        status = made.status();
    }
    if (vms.empty()) groups_.erase(request.group);
    return status;
}

Result<Handle> LuaHost::spawn(const SpawnRequest& request) {
    const Result<std::shared_ptr<const Script>> script = scripts_.get(request.script);
    if (!script.ok()) return script.status();
    if (!request.group.empty() && is_trusted(request.script)) {
        return Status::error(StatusCode::invalid,
                             "\"%s\" is trusted, so it can't be light: it would share its powers "
                             "with the others of its group",
                             request.script.c_str());
    }

    const Result<Placed> placed =
        request.group.empty() ? place_alone(request) : place_in_group(request);
    if (!placed.ok()) return placed.status();
    const auto [handle, cell, launch] = placed.value();
    counters_.services.fetch_add(1, std::memory_order_relaxed);

    Status status;
    if (!request.name.empty()) {
        status = kernel_.registry().set_name(request.name, handle);
    }
    MessagePtr message = make_message(status.ok() ? MessageKind::start : MessageKind::kill, handle,
                                      request.from, status.ok() ? request.session : 0);
    if (status.ok()) {
        PayloadWriter out = message->writer();
        wire::write_string(out, request.script);
        out.append(request.options.data(), request.options.size());
        message->finish(out);
        if (request.monitor) kernel_.registry().monitor(request.from, handle);
    }
    // A VM that was made for it is launched even if the name was taken: it buries itself.
    (void)kernel_.post(message);
    if (launch) kernel_.launch(cell);
    if (!status.ok()) return status;
    return handle;
}

bool LuaHost::stop(Handle handle, Handle from, std::uint64_t session, std::string_view reason) {
    MessagePtr message = make_message(MessageKind::stop, handle, from, session);
    message->set_payload(reason);
    return kernel_.post_control(std::move(message)) == PostResult::ok;
}

bool LuaHost::kill(Handle handle, std::string_view reason) {
    MessagePtr message = make_message(MessageKind::kill, handle, {}, 0);
    message->set_payload(reason);
    return kernel_.post_control(std::move(message)) == PostResult::ok;
}

LuaHost::Remains LuaHost::service_ended(Handle handle, Vm* vm, bool was_light) {
    counters_.services.fetch_sub(1, std::memory_order_relaxed);
    {
        const std::lock_guard lock(topics_mutex_);
        const auto mine = topics_of_.find(handle);
        if (mine != topics_of_.end()) {
            counters_.subscriptions.fetch_sub(mine->second.size(), std::memory_order_relaxed);
            for (const std::string& topic : mine->second) {
                std::erase_if(topics_[topic],
                              [&](const Subscriber& entry) { return entry.handle == handle; });
                if (topics_[topic].empty()) topics_.erase(topic);
            }
            topics_of_.erase(mine);
        }
    }
    std::vector<std::string> claimed;
    {
        const std::lock_guard lock(claims_mutex_);
        for (const auto& [name, claim] : claims_) {
            if (claim.by == handle) claimed.push_back(name);
        }
    }
    for (const std::string& name : claimed) {
        settle_claim(name, handle, {}, "the service that was starting it has died");
    }
    if (!was_light) return Remains::nothing;
    const std::lock_guard lock(groups_mutex_);
    const auto found = groups_.find(vm->group());
    if (found == groups_.end()) return Remains::nothing;
    std::vector<Member>& members = found->second;
    const auto member = std::find_if(members.begin(), members.end(),
                                     [&](const Member& entry) { return entry.vm == vm; });
    if (member == members.end() || --member->services > 0) return Remains::used;
    if (members.size() == 1) return Remains::idle;
    members.erase(member);
    return Remains::nothing;
}

bool LuaHost::retire(Vm* vm) {
    const std::lock_guard lock(groups_mutex_);
    const auto found = groups_.find(vm->group());
    if (found == groups_.end()) return false;
    std::vector<Member>& members = found->second;
    const auto member = std::find_if(members.begin(), members.end(),
                                     [&](const Member& entry) { return entry.vm == vm; });
    if (member == members.end() || member->services > 0) return false;
    members.erase(member);
    if (members.empty()) groups_.erase(found);
    return true;
}

// --- topics ---

Status LuaHost::subscribe(std::string_view topic, Handle handle, std::string_view command) {
    for (const std::string_view name : {topic, command}) {
        if (!name.empty() && name.size() <= kMaxTopic) continue;
        return Status::error(StatusCode::invalid,
                             "the name of a topic or command has 1 to %zu bytes, this one has %zu",
                             kMaxTopic, name.size());
    }
    const std::lock_guard lock(topics_mutex_);
    std::vector<std::string>& mine = topics_of_[handle];
    auto found = topics_.find(topic);
    if (found != topics_.end()) {
        for (Subscriber& entry : found->second) {
            if (entry.handle == handle) {
                entry.command = command;
                return {};
            }
        }
    }
    if (mine.size() >= kMaxSubscriptions) {
        counters_.subscriptions_refused.fetch_add(1, std::memory_order_relaxed);
        return Status::error(
            StatusCode::too_large,
            "a service subscribes to %zu topics at most, and this one does: put "
            "what tells them apart into the message, or let several services share",
            kMaxSubscriptions);
    }
    if (found == topics_.end())
        found = topics_.emplace(std::string(topic), std::vector<Subscriber>()).first;
    found->second.push_back({handle, std::string(command)});
    mine.emplace_back(topic);
    counters_.subscriptions.fetch_add(1, std::memory_order_relaxed);
    return {};
}

void LuaHost::unsubscribe(std::string_view topic, Handle handle) {
    const std::lock_guard lock(topics_mutex_);
    const auto found = topics_.find(topic);
    if (found == topics_.end()) return;
    const std::size_t erased = std::erase_if(
        found->second, [&](const Subscriber& entry) { return entry.handle == handle; });
    if (found->second.empty()) topics_.erase(found);
    if (erased == 0) return;
    std::erase(topics_of_[handle], topic);
    counters_.subscriptions.fetch_sub(1, std::memory_order_relaxed);
}

int LuaHost::publish(std::string_view topic, Handle from, std::string_view payload) {
    std::vector<Subscriber> subscribers;
    {
        const std::lock_guard lock(topics_mutex_);
        const auto found = topics_.find(topic);
        if (found == topics_.end()) return 0;
        subscribers = found->second;
    }
    int count = 0;
    // What is too large for a message itself is shared by all subscribers whose command has the
    // same name, as nearly all do.
    std::map<std::string_view, BufferRef> shared;
    for (const Subscriber& entry : subscribers) {
        MessagePtr message = make_message(MessageKind::send, entry.handle, from, 0);
        // Its own even where the name begins with on_, which others can't call.
        message->detail = kOwnCommand;
        const auto known = shared.find(entry.command);
        if (known != shared.end()) {
            message->set_payload(known->second);
        } else {
            PayloadWriter out = message->writer();
            wire::write_string(out, entry.command);
            out.append(payload.data(), payload.size());
            message->finish(out);
            if (message->buffer != nullptr) {
                message->buffer->retain();
                shared.emplace(entry.command, BufferRef(message->buffer));
            }
        }
        if (kernel_.post(message) == PostResult::ok) ++count;
    }
    return count;
}

// --- unique ---

LuaHost::Claim LuaHost::claim(std::string_view name, Handle from, std::uint64_t session,
                              Handle* existing) {
    const std::lock_guard lock(claims_mutex_);
    const auto found = claims_.find(name);
    if (found != claims_.end()) {
        found->second.waiting.emplace_back(from, session);
        return Claim::waiting;
    }
    *existing = kernel_.registry().find_name(name);
    if (*existing) return Claim::exists;
    claims_.emplace(std::string(name), Claimed{from, {}});
    return Claim::taken;
}

void LuaHost::settle_claim(std::string_view name, Handle from, Handle started,
                           std::string_view error) {
    Claimed claim;
    {
        const std::lock_guard lock(claims_mutex_);
        const auto found = claims_.find(name);
        if (found == claims_.end() || found->second.by != from) return;
        claim = std::move(found->second);
        claims_.erase(found);
    }
    for (const auto& [waiter, session] : claim.waiting) {
        if (started) {
            answer(waiter, session, {Value(started.value)});
            continue;
        }
        MessagePtr message = make_message(MessageKind::failure, waiter, {}, session);
        message->detail = static_cast<std::uint8_t>(Outcome::error);
        PayloadWriter out = message->writer();
        wire::write_string(out, error);
        message->finish(out);
        (void)kernel_.post(message);
    }
}

void LuaHost::answer(Handle to, std::uint64_t session, const Values& values) {
    MessagePtr message = make_message(MessageKind::reply, to, {}, session);
    PayloadWriter out = message->writer();
    (void)encode(values, out);
    message->finish(out);
    (void)kernel_.post(message);
}

// --- reload ---

bool LuaHost::reload(std::string_view name, Handle from, std::uint64_t session) {
    {
        const std::lock_guard lock(reload_mutex_);
        if (reload_ != nullptr) return false;
        reload_ = std::make_unique<Reload>();
        reload_->from = from;
        reload_->session = session;
        reload_->waiting = 1;  // this function itself
    }
    counters_.reloads.fetch_add(1);
    std::string problem;
    std::vector<Handle> targets;
    const Handle named = name.empty() ? Handle{} : kernel_.registry().find_name(name);
    if (named) {
        // Scripts only: a native service has no text.
        Registry::Slot* slot = kernel_.registry().find(named);
        if (slot != nullptr && slot->tag.load() == kLuaService) targets.push_back(named);
    } else {
        // The services' own scripts and the modules they required: each VM knows what it uses,
        // so all are told which scripts are new, and those that use none do nothing.
        std::vector<std::string> names = scripts_.names();
        if (!name.empty()) names = {std::string(name)};
        for (const std::string& script : names) {
            const Result<std::shared_ptr<const Script>> fresh = scripts_.refresh(script);
            // A file that is gone is no change: services that run it go on with what they have.
            const bool gone = name.empty() && fresh.status().code() == StatusCode::not_found;
            if (gone) {
                kernel_.log().warn(
                    "reload", "%s; what runs of it goes on as it is, and can't be started again",
                    fresh.status().message());
            } else if (!fresh.ok())
                problem += (problem.empty() ? "" : "\n") + std::string(fresh.status().message());
        }
        if (problem.empty()) targets = kernel_.registry().handles(kLuaService);
    }
    for (const Handle target : targets) {
        MessagePtr message = make_message(MessageKind::reload, target, from, 0);
        message->detail = named ? 1 : 0;
        message->set_payload(name);
        {
            const std::lock_guard lock(reload_mutex_);
            ++reload_->waiting;
        }
        if (kernel_.post_control(std::move(message)) != PostResult::ok) reload_done(kReloadSkipped);
    }
    reload_done(problem.empty() ? kReloadSkipped : problem);
    return true;
}

void LuaHost::reload_done(std::string_view problem, const std::vector<std::string>& scripts) {
    std::unique_ptr<Reload> finished;
    {
        const std::lock_guard lock(reload_mutex_);
        if (reload_ == nullptr) return;
        if (problem.empty()) {
            ++reload_->reloaded;
            reload_->scripts.insert(scripts.begin(), scripts.end());
        } else if (problem != kReloadSkipped) {
            reload_->problems.emplace_back(problem);
        }
        if (--reload_->waiting > 0) return;
        finished = std::move(reload_);
    }
    counters_.reload_refusals.fetch_add(finished->problems.size());
    for (const std::string& text : finished->problems) {
        kernel_.log().write(LogLevel::error, "reload", text, LogText::lines);
    }
    if (finished->reloaded > 0) {
        std::string names;
        for (const std::string& script : finished->scripts) {
            names += (names.empty() ? "" : ", ") + script;
        }
        kernel_.log().info("reload", "%s: services that run the new text: %d", names.c_str(),
                           finished->reloaded);
    }
    Values problems(finished->problems.begin(), finished->problems.end());
    answer(finished->from, finished->session,
           {Value(finished->reloaded), Value::array(std::move(problems))});
}

// --- the compiler's budget ---

bool LuaHost::promote(Vm* vm) {
    const std::lock_guard lock(jit_mutex_);
    if (static_cast<int>(jit_vms_.size()) >= options_.jit_vms) {
        if (jit_vms_.empty()) return false;
        const auto idle =
            std::min_element(jit_vms_.begin(), jit_vms_.end(), [](const Vm* left, const Vm* right) {
                return left->last_active_ns() < right->last_active_ns();
            });
        // It gives the place up by itself; whoever asks next gets it.
        if (kernel_.clock().coarse_ns() - (*idle)->last_active_ns() > kNsPerSecond) {
            MessagePtr message =
                make_message(MessageKind::shrink, (*idle)->control_handle(), {}, 0);
            (void)kernel_.post_control(std::move(message));
        }
        return false;
    }
    jit_vms_.push_back(vm);
    counters_.jit_vms.store(jit_vms_.size());
    counters_.jit_promotions.fetch_add(1);
    return true;
}

void LuaHost::demoted(Vm* vm) {
    const std::lock_guard lock(jit_mutex_);
    std::erase(jit_vms_, vm);
    counters_.jit_vms.store(jit_vms_.size());
}

void LuaHost::vm_ended(Vm* vm) { demoted(vm); }

Table LuaHost::node_stats() {
    Table counters;
    const auto put = [&](const char* name, std::uint64_t value) {
        counters.emplace_back(name, value);
    };
    const KernelCounters& kernel = kernel_.counters();
    put("dead_letters", kernel.dead_letters);
    put("refused_dead", kernel.refused_dead);
    put("refused_overloaded", kernel.refused_overloaded);
    put("late_replies", kernel.late_replies);
    put("calls_failed", kernel.calls_failed);
    put("services_started", kernel.services_started);
    put("services_ended", kernel.services_ended);
    const SchedulerCounters scheduler = kernel_.scheduler().counters();
    put("turns", scheduler.turns);
    put("messages", scheduler.messages);
    put("mailbox_bytes",
        static_cast<std::uint64_t>(std::max<std::int64_t>(scheduler.mailbox_bytes, 0)));
    put("steals", scheduler.steals);
    put("wakes", scheduler.wakes);
    put("workers", static_cast<std::uint64_t>(scheduler.workers));
    put("spares", static_cast<std::uint64_t>(scheduler.spares));
    put("spares_started", scheduler.spares_started);
    put("spares_refused", scheduler.spares_refused);
    put("long_dispatches", scheduler.long_dispatches);
    put("interrupts", scheduler.interrupts);
    const Registry::Counters registry = kernel_.registry().counters();
    put("names", registry.names);
    put("names_refused", registry.names_refused);
    put("monitors", registry.monitors);
    put("monitors_refused", counters_.monitors_refused);
    put("subscriptions", counters_.subscriptions);
    put("subscriptions_refused", counters_.subscriptions_refused);
    const SharedStore::Counters shared = kernel_.shared().counters();
    put("shared_names", shared.names);
    put("shared_bytes", shared.bytes);
    put("shared_refused", shared.refused);
    put("vms", counters_.vms);
    put("jit_vms", counters_.jit_vms);
    put("jit_promotions", counters_.jit_promotions);
    put("lua_errors", counters_.lua_errors);
    put("memory_kills", counters_.memory_kills);
    put("interrupted_requests", counters_.interrupted_requests);
    put("reloads", counters_.reloads);
    put("reload_refusals", counters_.reload_refusals);
    const TimerWheel::Counters timers = kernel_.timers().counters();
    put("timers_added", timers.added);
    put("timers_expired", timers.expired);
    put("timers_waiting", timers.waiting);
    put("timer_ticks_skipped", timers.skipped);
    put("timers_refused", timers.refused);
    put("timers_retired", timers.retired);
    const BlockingPool::Counters blocking = kernel_.blocking().counters();
    put("blocking_submitted", blocking.submitted);
    put("blocking_refused", blocking.refused);
    put("blocking_running", blocking.running);
    put("blocking_waiting", blocking.waiting);
    const PagePool::Stats pages = pages_->stats();
    put("lua_bytes", pages.chunks_used * kChunkSize + pages.span_bytes_used);
    put("lua_warm_bytes", pages.warm_bytes);
    const Log::Counters log = kernel_.log().counters();
    put("log_written", log.written);
    put("log_dropped", log.dropped);
    put("log_failed", log.failed);
    put("log_levels", log.levels);
    Table names;
    for (const auto& [name, handle] : kernel_.registry().names()) {
        names.emplace_back(name, handle.value);
    }
    if (network() != nullptr) {
        network()->counters().each([&](const char* name, std::uint64_t value) {
            put(("net_" + std::string(name)).c_str(), value);
        });
    }
    const auto put_counter = [&](const char* name, std::uint64_t value) { put(name, value); };
    if (udp() != nullptr) udp()->counters().each(put_counter);
    if (databases() != nullptr) databases()->each_counter(put_counter);
    return {{"services", counters_.services.load()},
            {"counters", std::move(counters)},
            {"names", std::move(names)}};
}

}  // namespace perilune
