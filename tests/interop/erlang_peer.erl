#!/usr/bin/env escript
%% Tests echo servers with the packet options 1, 2, 4 and line of gen_tcp.
%% usage: erlang_peer.erl NAME=HOST:PORT...        (NAME is the framing of the echo server)

main(Args) ->
    lists:foreach(fun(Arg) ->
        [Name, Addr] = string:split(Arg, "="),
        [Host, Port] = string:split(Addr, ":", trailing),
        case packet(Name) of
            none -> ok;
            Packet -> check(Name, Packet, Host, list_to_integer(Port))
        end
    end, Args).

packet("u8") -> 1;
packet("u16") -> 2;
packet("u32") -> 4;
packet("line") -> line;
packet(_) -> none.

check(Name, Packet, Host, Port) ->
    Options = [binary, {packet, Packet}, {active, false}, {buffer, 65536}],
    {ok, Socket} = gen_tcp:connect(Host, Port, Options),
    Longest = case Packet of 1 -> 255; _ -> 50000 end,
    Short = [<< <<(97 + N rem 26)>> || N <- lists:seq(1, Len rem 97) >> || Len <- lists:seq(0, 999)],
    Frames = [ended(Packet, One) || One <- Short ++ [binary:copy(<<"x">>, Longest)]],
    spawn_link(fun() -> [ok = gen_tcp:send(Socket, One) || One <- Frames] end),
    [{ok, One} = gen_tcp:recv(Socket, 0, 30000) || One <- Frames],
    ok = gen_tcp:close(Socket),
    io:format("ok: {packet, ~p} with ~s, ~p frames~n", [Packet, Name, length(Frames)]).

%% gen_tcp sends and returns a line with its line end.
ended(line, Payload) -> <<Payload/binary, "\n">>;
ended(_, Payload) -> Payload.
