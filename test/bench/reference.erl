%% W1 to W3 in Erlang, as references on the same machine where it has `erl` (Debian: erlang-base).
%% Processes of Erlang share no memory either, and are preempted too.
-module(reference).
-export([main/0, echo/0, consume/2, ring/1, idle/0]).

main() ->
    calls(1000000),
    stream(4000000),
    rings(1000, 4000),
    spawns(300000),
    memory(10000).

payload() -> <<"sixteen bytes...">>.

%% Prints how many a second `Body` does.
rate(Name, Unit, Count, Body) ->
    Body(Count div 10),
    Begin = erlang:monotonic_time(microsecond),
    Body(Count),
    Took = erlang:monotonic_time(microsecond) - Begin,
    result(Name, Count * 1.0e6 / Took, Unit).

result(Name, Value, Unit) ->
    Threads = integer_to_list(erlang:system_info(schedulers_online)),
    io:format("RESULT erlang_~s_t~s ~.6e ~s~n", [Name, Threads, float(Value), Unit]).

calls(Count) ->
    Echo = spawn(?MODULE, echo, []),
    rate("call", "calls/s", Count, fun(N) -> call(Echo, N, payload()) end),
    exit(Echo, kill).

echo() -> receive {From, Number, Text} -> From ! {Number + 1, Text}, echo() end.

call(_, 0, _) -> ok;
call(Echo, Number, Text) ->
    Echo ! {self(), Number, Text},
    Next = Number + 1,
    receive {Next, Text} -> call(Echo, Number - 1, Text) end.

stream(Count) ->
    rate("1to1", "messages/s", Count, fun(N) ->
        Consumer = spawn(?MODULE, consume, [self(), N]),
        send(Consumer, 1, N, payload()),
        receive received -> ok end
    end).

send(_, Number, Count, _) when Number > Count -> ok;
send(Consumer, Number, Count, Text) ->
    Consumer ! {Number, Text},
    send(Consumer, Number + 1, Count, Text).

consume(From, Count) -> consume(From, 1, Count, payload()).
consume(From, Number, Count, _) when Number > Count -> From ! received;
consume(From, Number, Count, Text) ->
    receive {Number, Text} -> consume(From, Number + 1, Count, Text) end.

rings(Size, Hops) ->
    Nodes = [Head | Tail] = [spawn(?MODULE, ring, [self()]) || _ <- lists:seq(1, Size)],
    [Node ! {join, Next} || {Node, Next} <- lists:zip(Nodes, Tail ++ [Head])],
    rate("ring", "hops/s", Size * Hops, fun(N) ->
        [Node ! {pass, N div Size - 1, Token} || {Node, Token} <- lists:zip(Nodes, lists:seq(1, Size))],
        [receive {arrived, Token} -> ok end || Token <- lists:seq(1, Size)]
    end),
    [exit(Node, kill) || Node <- Nodes].

ring(Goal) -> receive {join, Next} -> ring(Goal, Next) end.
ring(Goal, Next) ->
    receive
        {pass, 0, Token} -> Goal ! {arrived, Token};
        {pass, Hops, Token} -> Next ! {pass, Hops - 1, Token}
    end,
    ring(Goal, Next).

spawns(Count) -> rate("spawn", "services/s", Count, fun spawn_each/1).

spawn_each(0) -> ok;
spawn_each(N) ->
    Self = self(),
    spawn(fun() -> receive Word -> Self ! Word end end) ! bye,
    receive bye -> spawn_each(N - 1) end.

memory(Count) ->
    Before = erlang:memory(total),
    Idle = [spawn(?MODULE, idle, []) || _ <- lists:seq(1, Count)],
    result("memory", (erlang:memory(total) - Before) / Count / 1024, "KiB"),
    [exit(One, kill) || One <- Idle].

idle() -> receive stop -> ok end.
