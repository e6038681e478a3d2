#include "node/engine.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>
#include <utility>

#include "core/codec.h"
#include "lua/config_script.h"
#include "lua/lua_native_module.h"
#include "net/memory_transport.h"
#include "net/system_transport.h"
#include "node/calls.h"
#include "node/config_check.h"
#include "node/folders.h"

namespace perilune {

namespace {

constexpr int kServiceStopMs = 10'000;    // for the on_stop of one service
constexpr std::int64_t kKillMs = 1'000;   // for killed services to be gone
constexpr std::int64_t kCloseMs = 5'000;  // for connections to deliver what waits
constexpr std::int64_t kEndMs = 2'000;    // for threads to end, also when the time is over
constexpr int kReserveMs = 3'000;         // of a long limit, for what comes after the services
constexpr int kReloadMs = 10'000;
constexpr std::int64_t kSpawnSlackMs = 1'000;  // the service's own limit is to be hit first

// A result that another thread leaves for one that waits.
struct Waiter {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<CallResult> result;  // guarded by mutex

    void leave(CallResult value) {
        const std::lock_guard lock(mutex);
        result = std::move(value);
        changed.notify_all();
    }
    // False when nothing came until `deadline_ns`; 0: no deadline.
    bool wait(std::int64_t deadline_ns) {
        std::unique_lock lock(mutex);
        const auto there = [this] { return result.has_value(); };
        if (deadline_ns == 0) {
            changed.wait(lock, there);
            return true;
        }
        const std::chrono::nanoseconds left(deadline_ns - RealClock::monotonic());
        return changed.wait_for(lock, left, there);
    }
};

std::int64_t deadline_after(std::int64_t limit_ms) {
    return RealClock::monotonic() + limit_ms * kNsPerMs;
}

std::int64_t ms_until(std::int64_t deadline_ns) {
    return std::max<std::int64_t>(0, deadline_ns - RealClock::monotonic()) / kNsPerMs;
}

void pause_briefly() { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }

CallResult not_running() { return failed_call(Outcome::cancelled, "the node doesn't run"); }

CallResult not_here() {
    return failed_call(Outcome::cancelled,
                       "a worker can't wait for its own node: use call_async, or another thread");
}

// "config.lua:3: data" where it is known where the key was configured, else the key alone.
std::string place_of(const Config& config, const std::string& path) {
    const auto origin = config.origins.find(path);
    return origin == config.origins.end() ? path : origin->second + ": " + path;
}

// All options of a service by their paths: ".listen[1].port".
void flatten(const Value& options, const std::string& path,
             std::vector<std::pair<std::string, Value>>& flat) {
    for (const auto& [key, value] : options.table()) {
        const std::string inner =
            path + (key.is_number() ? path_step(key.number()) : path_step(key.string()));
        flat.emplace_back(inner, value);
        flatten(value, inner, flat);
    }
}

// The option that a failed start is about, as in flatten(), or "": the one that the text names
// ("listen[1]: option port ..."), or the port that is in use.
std::string blamed_option(const Value& options, std::string text) {
    std::vector<std::pair<std::string, Value>> flat;
    flatten(options, "", flat);
    const auto begins = [&text](const std::string& word) {
        return text.compare(0, word.size(), word) == 0;
    };
    std::string within;
    for (const auto& [path, value] : flat) {
        if (!begins(path.substr(1) + ": ")) continue;
        within = path;
        text.erase(0, path.size() + 1);
        break;
    }
    for (const auto& [path, value] : flat) {
        if (path.compare(0, within.size(), within) != 0) continue;
        const std::string name = path.substr(path.rfind('.') + 1);
        const std::string port = ":" + std::to_string(value.integer(-1)) + " ";
        if (begins("option " + name + " ") || text == "there is no option " + name ||
            (name == "port" && text.find(port) != std::string::npos)) {
            return path;
        }
    }
    return within;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

Status invalid(const std::string& text) {
    return Status::error(StatusCode::invalid, "%s", text.c_str());
}

}  // namespace

Node::Engine::Engine(Config config) : config_(std::move(config)) {}

Node::Engine::~Engine() {
    (void)stop(-1);
    // The kernel's actors went in stop(), those of a node that never ran go with the kernel:
    // they refer to what is destroyed before it.
    if (kernel_ != nullptr) (void)kernel_->stop();
    if (natives_ != nullptr) natives_->door->shut();
    gate_.reset();
    host_.reset();
    databases_.reset();
    udp_.reset();
    network_.reset();
}

void Node::Engine::register_service(const std::string& script, NativeServiceFactory factory) {
    factories_[script] = std::move(factory);
}

void Node::Engine::register_module(const std::string& name, NativeModule module) {
    modules_[name] = std::make_shared<const NativeModule>(std::move(module));
}

// --- start ---

Status Node::Engine::start() {
    {
        const std::lock_guard lock(state_mutex_);
        if (state_.load() != State::fresh) {
            return Status::error(StatusCode::unavailable, "a node can be started once");
        }
        state_.store(State::starting);
    }
    Status status = check_config();
    if (status.ok()) status = build();
    if (status.ok()) status = start_services();
    {
        const std::lock_guard lock(state_mutex_);
        if (status.ok() && stop_wanted_) {
            status = Status::error(StatusCode::unavailable, "stopped while it started");
        }
        state_.store(status.ok() ? State::running : State::stopping);
    }
    if (status.ok()) return status;
    if (kernel_ != nullptr) (void)shut_down(config_.stop_limit_ms);
    end(State::stopped);
    return status;
}

Status Node::Engine::check_config() {
    complete(config_);
    std::string first = home_problem(config_);
    const ConfigProblems note = [&](const std::string& path, const std::string& text) {
        if (first.empty()) first = path.empty() ? text : place_of(config_, path) + ": " + text;
    };
    if (first.empty()) check_limits(config_, note);
    if (first.empty()) {
        check_world(
            config_, [this](const std::string& name) { return is_native(name); }, note);
    }
    if (!first.empty()) return invalid(first);
    const std::string data = resolve_path(config_, config_.data);
    std::error_code error;
    std::filesystem::create_directories(data, error);
    if (error) {
        return invalid(place_of(config_, "data") + ": " + data +
                       " can't be made: " + error.message() + ". Give another path.");
    }
    return {};
}

Status Node::Engine::open_log() {
    LogOptions options;
    options.level = parse_log_level(config_.log.level).value_or(LogLevel::info);
    for (const auto& [service, level] : config_.log.levels) {
        options.levels[service] = parse_log_level(level).value_or(LogLevel::info);
    }
    options.format = config_.log.format == "json" ? LogFormat::json : LogFormat::text;
    options.descriptor = config_.log.stream == "none" ? -1 : config_.log.stream == "stdout" ? 1 : 2;
    options.file = resolve_path(config_, config_.log.file);
    options.file_bytes = static_cast<std::size_t>(config_.log.file_mb) << 20;
    options.files = static_cast<std::size_t>(config_.log.files);
    options.queue = static_cast<std::size_t>(config_.log.queue);
    Result<std::unique_ptr<Log>> log = Log::open(options, virtual_clock_.get());
    if (!log.ok()) {
        return invalid(place_of(config_, "log.file") + ": " + log.status().message());
    }
    log_ = std::move(log.value());
    return {};
}

Status Node::Engine::build() {
    if (seeded()) {
        virtual_clock_ = std::make_unique<VirtualClock>();
        random_ = std::make_unique<SeededRandom>(config_.seed);
    } else {
        real_clock_ = std::make_unique<RealClock>();
        random_ = std::make_unique<SystemRandom>();
    }
    if (Status status = open_log(); !status.ok()) return status;

    KernelOptions options;
    options.workers = config_.workers;
    options.max_spares = config_.spare_workers;
    options.seeded = seeded();
    options.seed = config_.seed;
    options.mailbox_messages = static_cast<std::uint64_t>(config_.mailbox.messages);
    options.mailbox_bytes = static_cast<std::uint64_t>(config_.mailbox.mb) << 20;
    options.node_mailbox_bytes = static_cast<std::uint64_t>(config_.mailbox.node_mb) << 20;
    options.report_ms = config_.watchdog.report_ms;
    options.interrupt_ms = config_.watchdog.interrupt_ms;
    options.interrupt_signal = config_.watchdog.signal;
    options.blocking_threads = config_.blocking.threads;
    options.blocking_queue = config_.blocking.queue;
    Clock& clock = seeded() ? static_cast<Clock&>(*virtual_clock_) : *real_clock_;
    kernel_ = std::make_unique<Kernel>(
        options, Kernel::Environment{clock, *random_, *log_, virtual_clock_.get()});

    // What the outside does can't be repeated: a seeded node has a network of its own.
    std::unique_ptr<Transport> transport;
    if (seeded()) {
        transport = std::make_unique<MemoryTransport>(*kernel_);
    } else {
        transport = std::make_unique<SystemTransport>(kernel_->poller());
    }
    network_ = std::make_unique<Network>(*kernel_, std::move(transport));
    udp_ = std::make_unique<Udp>(*kernel_);
    databases_ = std::make_unique<Databases>(*kernel_, resolve_path(config_, config_.data));

    LuaHostOptions lua;
    lua.script_folders = script_folders(config_);
    lua.library_folder = find_home(config_) + "/lualib";
    lua.data_folder = resolve_path(config_, config_.data);
    lua.base_folder = config_.base;
    lua.memory_bytes = static_cast<std::size_t>(config_.lua.memory_mb) << 20;
    lua.call_limit_ms = config_.call_limit_ms;
    lua.start_limit_ms = config_.start_limit_ms;
    lua.stop_limit_ms = std::min(kServiceStopMs, config_.stop_limit_ms);
    lua.jit = config_.lua.jit && !seeded();
    lua.jit_after_ms = config_.lua.jit_after_ms;
    lua.jit_vms = config_.lua.jit_vms;
    lua.group_services = config_.lua.group_size;
    lua.trusted = config_.trusted;
    lua.env = config_.env.table();
    Result<std::unique_ptr<LuaHost>> host =
        LuaHost::create(*kernel_, {network_.get(), udp_.get(), databases_.get()}, std::move(lua));
    if (!host.ok()) return host.status();
    host_ = std::move(host.value());
    for (const auto& [name, module] : modules_) {
        host_->add_module(name, native_module_opener(module));
    }

    natives_ = std::make_unique<NativeWorld>(
        NativeWorld{*kernel_, std::make_shared<Door>(*kernel_), config_.call_limit_ms});

    if (Status status = network_->start(); !status.ok()) return status;
    if (Status status = udp_->start(); !status.ok()) return status;
    if (Status status = databases_->start(); !status.ok()) return status;
    threads_left_.store(true);
    if (Status status = kernel_->start(); !status.ok()) return status;
    started_kernel_.store(kernel_.get());
    gate_ = std::make_unique<HostGate>(*kernel_);
    return {};
}

Status Node::Engine::start_services() {
    for (std::size_t i = 0; i < config_.services.size(); ++i) {
        const ServiceConfig& service = config_.services[i];
        Handle handle;
        const CallResult result =
            spawn_and_wait(service, config_.start_limit_ms + kSpawnSlackMs, &handle);
        if (!result.ok()) {
            std::string place = service_path(config_, i) + " (" + service.name + ")";
            const std::string option = blamed_option(service.options, result.message);
            if (!option.empty()) {
                const std::string list = "services" + path_step(static_cast<double>(i + 1));
                const auto origin = config_.origins.find(list + ".options" + option);
                if (origin != config_.origins.end()) {
                    place = origin->second + ": " + list + " (" + service.name + ")";
                }
                place += ".options" + option;
            }
            // One line; the log has the rest.
            return Status::error(StatusCode::unavailable, "%s: %s", place.c_str(),
                                 first_line(result.message).c_str());
        }
        started_.push_back(handle);
    }
    return {};
}

std::optional<CallResult> Node::Engine::begin_spawn(const ServiceConfig& service,
                                                    std::uint64_t session, Handle* handle) {
    Result<Handle> started = Status();
    const auto factory = factories_.find(service.script);
    if (factory != factories_.end()) {
        NativeStart start;
        start.script = service.script;
        start.name = service.name;
        start.options = service.options;
        start.mailbox = static_cast<std::uint32_t>(service.mailbox);
        start.from = gate_->handle();
        start.session = session;
        started = start_native(*natives_, factory->second(), start);
    } else {
        SpawnRequest request;
        request.script = service.script;
        request.name = service.name;
        request.group = service.group;
        request.memory_bytes = static_cast<std::size_t>(service.memory_mb) << 20;
        request.mailbox = static_cast<std::uint32_t>(service.mailbox);
        request.from = gate_->handle();
        request.session = session;
        if (!service.options.is_nil()) {
            PayloadWriter out;
            if (const Status status = encode({service.options}, out); !status.ok()) {
                return failed_call(Outcome::error, status.message());
            }
            request.options.assign(out.data(), out.size());
        }
        started = host_->spawn(request);
    }
    if (started.ok()) {
        *handle = started.value();
        return std::nullopt;
    }
    CallResult failure = failed_call(Outcome::error, started.status().message());
    failure.error = Value(status_code_name(started.status().code()));
    return failure;
}

CallResult Node::Engine::spawn_and_wait(const ServiceConfig& service, int limit_ms,
                                        Handle* handle) {
    const CallResult result = wait_for(
        [&](std::uint64_t session) -> std::optional<CallResult> {
            const std::shared_lock life(life_mutex_);
            {
                const std::lock_guard lock(state_mutex_);
                const bool starting = state_.load() == State::starting;
                if (stop_wanted_ || (!starting && !running())) return not_running();
                if (starting) starting_session_ = session;
            }
            return begin_spawn(service, session, handle);
        },
        limit_ms);
    if (result.outcome == Outcome::timeout && *handle) {
        const std::shared_lock life(life_mutex_);
        if (state_.load() <= State::running) host_->kill(*handle);
    }
    return result;
}

// --- stop ---

bool Node::Engine::stop(int limit_ms) {
    if (on_worker()) return false;
    const int limit = limit_ms < 0 ? config_.stop_limit_ms : limit_ms;
    {
        std::unique_lock lock(state_mutex_);
        if (state_.load() == State::fresh) {
            state_.store(State::stopped);
            return true;
        }
        if (state_.load() == State::stopped) {
            lock.unlock();
            return end_threads(deadline_after(limit));
        }
        if (state_.load() != State::running) {
            // Starting: start() cleans up. Stopping: somebody else does.
            stop_wanted_ = true;
            const std::uint64_t session = starting_session_;
            lock.unlock();
            if (state_.load() == State::starting && session != 0) {
                (void)gate_->finish(session, not_running());
            }
            return wait(-1) && threads_ended();
        }
        state_.store(State::stopping);
    }
    const bool orderly = shut_down(limit);
    end(State::stopped);
    return orderly;
}

bool Node::Engine::shut_down(int limit_ms) {
    const std::int64_t end_ns = deadline_after(limit_ms);
    const std::int64_t deadline_ns = end_ns - std::min(limit_ms / 5, kReserveMs) * kNsPerMs;
    bool orderly = true;
    for (; !started_.empty(); started_.pop_back()) {
        orderly = stop_and_wait(started_.back(), deadline_ns) && orderly;
    }
    orderly = stop_others(deadline_ns) && orderly;
    if (!orderly) kill_others();
    close_connections(deadline_ns);
    if (gate_ != nullptr) gate_->close("the node has stopped");
    // Whoever does something for a host thread is done with it before the workers end, and nobody
    // begins any more.
    { const std::unique_lock lock(life_mutex_); }
    if (natives_ != nullptr) natives_->door->shut();
    if (!end_threads(std::max(end_ns, deadline_after(kEndMs)))) {
        orderly = false;
        log_->error("node",
                    "a thread is left behind: it is in a C or C++ function that does not "
                    "return");
    }
    (void)log_->flush(std::max<std::int64_t>(ms_until(deadline_ns), 100) * kNsPerMs);
    return orderly;
}

bool Node::Engine::end_threads(std::int64_t deadline_ns) {
    const std::lock_guard lock(end_mutex_);
    if (threads_left_.load()) {
        // They tell services how what they still do has ended.
        const bool databases_ended = databases_->stop(deadline_ns);
        threads_left_.store(!kernel_->stop(deadline_ns) || !databases_ended);
    }
    return threads_ended();
}

// True when the service is dead.
bool Node::Engine::stop_and_wait(Handle handle, std::int64_t deadline_ns) {
    const std::int64_t left = ms_until(deadline_ns);
    if (left == 0) return false;
    const CallResult result = wait_for(
        [&](std::uint64_t session) -> std::optional<CallResult> {
            if (host_->stop(handle, gate_->handle(), session)) return std::nullopt;
            return failed_call(Outcome::dead, "it was dead already");
        },
        left);
    return result.ok() || result.outcome == Outcome::dead;
}

std::vector<Handle> Node::Engine::others() const {
    std::vector<Handle> handles = kernel_->registry().handles(kLuaService);
    for (const Handle handle : kernel_->registry().handles(kNativeService)) {
        handles.push_back(handle);
    }
    return handles;
}

bool Node::Engine::stop_others(std::int64_t deadline_ns) {
    // What a service starts while it stops is met in a later round.
    for (;;) {
        const std::vector<Handle> handles = others();
        if (handles.empty()) return true;
        const auto waiting = std::make_shared<std::atomic<std::size_t>>(handles.size());
        for (const Handle handle : handles) {
            const auto done = [waiting](const CallResult&) { waiting->fetch_sub(1); };
            const std::uint64_t session = gate_->open(done);
            if (!host_->stop(handle, gate_->handle(), session)) {
                (void)gate_->finish(session, failed_call(Outcome::dead, {}));
            }
        }
        do {
            if (ms_until(deadline_ns) == 0) return false;
            pause_briefly();
        } while (waiting->load() > 0);
    }
}

void Node::Engine::kill_others() {
    const std::vector<Handle> handles = others();
    log_->warn("node", "%zu services did not stop in time and are killed", handles.size());
    for (const Handle handle : handles) host_->kill(handle);
    const std::int64_t deadline = deadline_after(kKillMs);
    while (!others().empty() && ms_until(deadline) > 0) pause_briefly();
}

void Node::Engine::close_connections(std::int64_t deadline_ns) {
    network_->begin_stop();
    udp_->begin_stop();
    const std::int64_t deadline = std::min(deadline_ns, deadline_after(kCloseMs));
    const auto open = [this] {
        return network_->counters().open.load() + udp_->counters().enet_peers.load();
    };
    while (open() > 0 && ms_until(deadline) > 0) pause_briefly();
}

void Node::Engine::end(State state) {
    {
        const std::lock_guard lock(state_mutex_);
        state_.store(state);
        state_changed_.notify_all();
    }
    if (on_stopped_) on_stopped_();
}

bool Node::Engine::wait(int limit_ms) {
    if (on_worker()) return false;
    std::unique_lock lock(state_mutex_);
    const auto stopped = [this] { return state_.load() == State::stopped; };
    if (limit_ms >= 0) {
        return state_changed_.wait_for(lock, std::chrono::milliseconds(limit_ms), stopped);
    }
    state_changed_.wait(lock, stopped);
    return true;
}

// --- services and messages ---

// A session, its request and its end, on a thread of the host.
CallResult Node::Engine::wait_for(const Begin& begin, std::int64_t limit_ms) {
    if (on_worker()) return not_here();
    const auto waiter = std::make_shared<Waiter>();
    const std::uint64_t session =
        gate_->open([waiter](CallResult result) { waiter->leave(std::move(result)); });
    if (session == 0) return not_running();
    if (std::optional<CallResult> failure = begin(session)) {
        (void)gate_->finish(session, std::move(*failure));
    }
    // This thread looks at the clock itself, so that it returns in time even when all workers are
    // stuck.
    if (!waiter->wait(limit_ms <= 0 ? 0 : deadline_after(limit_ms))) {
        (void)gate_->finish(
            session,
            failed_call(Outcome::timeout, "no answer within " + std::to_string(limit_ms) + " ms"));
        (void)waiter->wait(0);
    }
    return std::move(*waiter->result);
}

Result<std::uint64_t> Node::Engine::spawn(const ServiceConfig& service, int limit_ms) {
    if (!running()) return not_running().status();
    const int limit = limit_ms < 0 ? config_.start_limit_ms + kSpawnSlackMs : limit_ms;
    Handle handle;
    const CallResult result = spawn_and_wait(service, limit, &handle);
    if (result.ok()) return handle.value;
    StatusCode code = result.status().code();
    for (const StatusCode own : {StatusCode::not_found, StatusCode::exists, StatusCode::invalid}) {
        if (!handle && result.error.string() == status_code_name(own)) code = own;
    }
    return Status::error(code, "%s", result.message.c_str());
}

bool Node::Engine::stop_service(const Receiver& service, int limit_ms) {
    if (!running()) return false;
    const CallResult result = wait_for(
        [&](std::uint64_t session) -> std::optional<CallResult> {
            const std::shared_lock life(life_mutex_);
            if (!running()) return not_running();
            const Handle handle = resolve(*kernel_, service);
            if (!handle || handle == gate_->handle()) return failed_call(Outcome::dead, {});
            if (host_->stop(handle, gate_->handle(), session)) return std::nullopt;
            return failed_call(Outcome::dead, {});
        },
        limit_ms);
    return result.ok();
}

std::uint64_t Node::Engine::find(std::string_view name) const {
    const std::shared_lock lock(life_mutex_);
    return running() ? kernel_->registry().find_name(name).value : 0;
}

Status Node::Engine::send(const Receiver& to, std::string_view command, const Values& arguments) {
    const std::shared_lock lock(life_mutex_);
    if (!running()) return not_running().status();
    MessagePtr message;
    if (const Status status = make_command(MessageKind::send, resolve(*kernel_, to), {}, 0, command,
                                           arguments, message);
        !status.ok()) {
        return status;
    }
    const PostResult result = kernel_->post(message);
    return result == PostResult::ok ? Status() : refused_call(result, to).status();
}

std::optional<CallResult> Node::Engine::begin_call(const Receiver& to, std::string_view command,
                                                   const Values& arguments, std::uint64_t session) {
    const std::shared_lock lock(life_mutex_);
    if (!running()) return not_running();
    MessagePtr message;
    if (const Status status = make_command(MessageKind::call, resolve(*kernel_, to),
                                           gate_->handle(), session, command, arguments, message);
        !status.ok()) {
        return failed_call(Outcome::error, status.message());
    }
    const PostResult result = kernel_->post(message);
    if (result == PostResult::ok) return std::nullopt;
    return refused_call(result, to);
}

CallResult Node::Engine::call(const Receiver& to, std::string_view command, const Values& arguments,
                              int limit_ms) {
    if (!running()) return not_running();
    return wait_for(
        [&](std::uint64_t session) { return begin_call(to, command, arguments, session); },
        limit_ms < 0 ? config_.call_limit_ms : limit_ms);
}

void Node::Engine::call_async(const Receiver& to, std::string_view command, const Values& arguments,
                              CallDone done, int limit_ms) {
    const auto shared_done = std::make_shared<CallDone>(std::move(done));
    std::uint64_t session = 0;
    if (running()) {
        session =
            gate_->open([shared_done](CallResult result) { (*shared_done)(std::move(result)); });
    }
    if (session == 0) {
        (*shared_done)(not_running());
    } else if (std::optional<CallResult> failure = begin_call(to, command, arguments, session)) {
        (void)gate_->finish(session, std::move(*failure));
    } else {
        const std::shared_lock lock(life_mutex_);
        if (running()) gate_->limit(session, limit_ms < 0 ? config_.call_limit_ms : limit_ms);
    }
}

Result<ReloadResult> Node::Engine::reload(const std::string& name) {
    if (!running()) return not_running().status();
    const CallResult result = wait_for(
        [&](std::uint64_t session) -> std::optional<CallResult> {
            const std::shared_lock life(life_mutex_);
            if (!running()) return not_running();
            if (host_->reload(name, gate_->handle(), session)) return std::nullopt;
            return failed_call(Outcome::error, "another reload is under way");
        },
        kReloadMs);
    if (!result.ok()) return result.status();
    ReloadResult reloaded;
    reloaded.services = static_cast<int>(result.value(1).integer());
    for (const auto& [index, problem] : result.value(2).table()) {
        reloaded.problems.push_back(problem.string());
    }
    return reloaded;
}

// --- what an operator sees ---

Value Node::Engine::stats() const {
    const std::shared_lock lock(life_mutex_);
    if (!running()) return Value(Table());
    return Value(host_->node_stats());
}

std::vector<std::string> Node::Engine::addresses() const {
    const std::shared_lock lock(life_mutex_);
    std::vector<std::string> texts;
    if (!running()) return texts;
    for (const Address& address : network_->listening()) texts.push_back(address.text());
    return texts;
}

void Node::Engine::log(LogLevel level, std::string_view text) {
    if (log_ != nullptr) log_->write(level, config_.name, text);
}

}  // namespace perilune
