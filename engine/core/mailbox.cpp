#include "core/mailbox.h"

namespace perilune {

Mailbox::~Mailbox() {
    while (pop() != nullptr) {
    }
    while (pop_control() != nullptr) {
    }
}

PushResult Mailbox::push(MessagePtr& message, bool bounded) {
    Message* head = head_.load();
    if (head == closed_mark()) return PushResult::closed;
    // Counted before it is visible, so that the reader never subtracts what was not added.
    const std::uint64_t count = message->count();
    const std::uint64_t weight = message->weight();
    if (!load_.add(count, weight, bounded, max_count_.load(std::memory_order_relaxed),
                   max_bytes_.load(std::memory_order_relaxed))) {
        return PushResult::full;
    }
    if (is_read(*message)) read_.fetch_add(count);
    for (;;) {
        if (head == closed_mark()) {
            load_.subtract(count, weight);
            if (is_read(*message)) read_.fetch_sub(count);
            return PushResult::closed;
        }
        message->next = is_mark(head) ? nullptr : head;
        if (head_.compare_exchange_weak(head, message.get())) break;
    }
    message.release();
    return head == idle_mark() ? PushResult::wake_actor : PushResult::queued;
}

PushResult Mailbox::push_control(MessagePtr& message) {
    if (head_.load() == closed_mark()) return PushResult::closed;
    Message* control = control_.load();
    do {
        message->next = control;
    } while (!control_.compare_exchange_weak(control, message.get()));
    message.release();
    // The reader checks the control list after it went idle (try_idle), so either it sees
    // this message there or the mark is still ours to take here.
    Message* head = idle_mark();
    if (head_.compare_exchange_strong(head, nullptr)) return PushResult::wake_actor;
    if (head != closed_mark()) return PushResult::queued;
    message.reset(reversed(control_.exchange(nullptr)));
    return PushResult::late;
}

Message* Mailbox::reversed(Message* newest) {
    Message* oldest = nullptr;
    while (newest != nullptr) {
        Message* next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

MessagePtr Mailbox::pop() {
    if (taken_ == nullptr) {
        Message* head = head_.load();
        while (!is_mark(head) && head != nullptr) {
            if (head_.compare_exchange_weak(head, nullptr)) {
                taken_ = reversed(head);
                break;
            }
        }
        if (taken_ == nullptr) return nullptr;
    }
    Message* message = taken_;
    ++popped_count_;
    if (is_read(*message)) ++popped_read_;
    if (message->parts > 1) [[unlikely]] {
        popped_bytes_ += sizeof(Message);
        return split_off(*message);
    }
    taken_ = message->next;
    if (message->parts == 1) [[unlikely]]
        become_part(*message);
    popped_bytes_ += message->weight();
    return MessagePtr(message);
}

MessagePtr Mailbox::pop_control() {
    if (control_taken_ == nullptr) {
        if (control_.load() == nullptr) return nullptr;
        control_taken_ = reversed(control_.exchange(nullptr));
    }
    Message* message = control_taken_;
    if (message != nullptr) control_taken_ = message->next;
    return MessagePtr(message);
}

void Mailbox::settle() {
    if (popped_count_ == 0) return;
    load_.subtract(popped_count_, popped_bytes_);
    if (popped_read_ != 0) read_.fetch_sub(popped_read_);
    popped_count_ = popped_bytes_ = popped_read_ = 0;
}

bool Mailbox::try_idle() {
    if (taken_ != nullptr || has_control()) return false;
    Message* head = nullptr;
    if (!head_.compare_exchange_strong(head, idle_mark())) return false;
    if (control_.load() == nullptr) return true;
    // A control message came in between. Whoever takes the mark back runs the actor.
    head = idle_mark();
    return !head_.compare_exchange_strong(head, nullptr);
}

void Mailbox::close() {
    Message* rest = head_.exchange(closed_mark());
    if (is_mark(rest) || rest == nullptr) return;
    Message* newer = reversed(rest);
    if (taken_ == nullptr) {
        taken_ = newer;
        return;
    }
    Message* last = taken_;
    while (last->next != nullptr) last = last->next;
    last->next = newer;
}

void Mailbox::open(std::uint64_t max_count, std::uint64_t max_bytes) {
    max_count_.store(max_count, std::memory_order_relaxed);
    max_bytes_.store(max_bytes, std::memory_order_relaxed);
    head_.store(nullptr);
}

}  // namespace perilune
