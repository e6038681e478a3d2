#include "perilune/node.h"

#include <utility>

#include "node/engine.h"

namespace perilune {

const char* version() { return PERILUNE_VERSION; }

bool stock_luajit() {
#ifdef PERILUNE_STOCK_LUAJIT
    return true;
#else
    return false;
#endif
}

Node::Node(Config config) : engine_(std::make_unique<Engine>(std::move(config))) {}

Node::~Node() {
    (void)engine_->stop(engine_->running() ? -1 : 0);
    if (!engine_->threads_ended()) (void)engine_.release();  // they use it still
}

void Node::register_service(const std::string& script, NativeServiceFactory factory) {
    engine_->register_service(script, std::move(factory));
}

void Node::register_module(const std::string& name, NativeModule module) {
    engine_->register_module(name, std::move(module));
}

void Node::on_stopped(std::function<void()> callback) { engine_->on_stopped(std::move(callback)); }

Status Node::start() { return engine_->start(); }
bool Node::stop(int limit_ms) { return engine_->stop(limit_ms); }
bool Node::wait(int limit_ms) { return engine_->wait(limit_ms); }
bool Node::running() const { return engine_->running(); }

Result<std::uint64_t> Node::spawn(const std::string& script, const Value& options,
                                  const std::string& name, int limit_ms) {
    ServiceConfig service;
    service.script = script;
    service.options = options;
    service.name = name;
    return engine_->spawn(service, limit_ms);
}

Result<std::uint64_t> Node::spawn(const ServiceConfig& service, int limit_ms) {
    return engine_->spawn(service, limit_ms);
}

bool Node::stop_service(const Receiver& service, int limit_ms) {
    return engine_->stop_service(service, limit_ms);
}

std::uint64_t Node::find(std::string_view name) const { return engine_->find(name); }

Status Node::send(const Receiver& to, std::string_view command, const Values& arguments) {
    return engine_->send(to, command, arguments);
}

CallResult Node::call(const Receiver& to, std::string_view command, const Values& arguments,
                      int limit_ms) {
    return engine_->call(to, command, arguments, limit_ms);
}

void Node::call_async(const Receiver& to, std::string_view command, const Values& arguments,
                      CallDone done, int limit_ms) {
    engine_->call_async(to, command, arguments, std::move(done), limit_ms);
}

Result<ReloadResult> Node::reload(const std::string& name) { return engine_->reload(name); }
Value Node::stats() const { return engine_->stats(); }
std::vector<std::string> Node::addresses() const { return engine_->addresses(); }
const Config& Node::config() const { return engine_->config(); }
void Node::log_info(std::string_view text) { engine_->log(LogLevel::info, text); }
void Node::log_error(std::string_view text) { engine_->log(LogLevel::error, text); }

}  // namespace perilune
