#include "core/stack_thread.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

namespace perilune {

namespace {

void* run_body(void* argument) {
    const std::unique_ptr<std::function<void()>> body(
        static_cast<std::function<void()>*>(argument));
    (*body)();
    return nullptr;
}

}  // namespace

StackThread::~StackThread() {
    if (started_) std::abort();  // as std::thread does
}

void StackThread::start(std::function<void()> body) {
    auto argument = std::make_unique<std::function<void()>>(std::move(body));
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    if (pthread_create(&thread_, &attributes, run_body, argument.get()) != 0) {
        std::fprintf(stderr, "perilune: the system has no thread left\n");
        std::abort();
    }
    (void)argument.release();
    pthread_attr_destroy(&attributes);
    started_ = true;
}

void StackThread::join() {
    pthread_join(thread_, nullptr);
    started_ = false;
}

}  // namespace perilune
