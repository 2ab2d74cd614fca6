//! Single facts about sockets and edge-triggered epoll, as scripts with their outcomes. Both
//! systems must give these outcomes.

/// The facts that the rules of the reactor depend on.
pub(super) const RULES: &[(&str, &str)] = &[
    (
        "unaccepted_connections_make_no_event_until_the_next_one",
        "
        listen a                => done
        register a              => done
        connect b a             => done
        connect c a             => done
        connect d a             => done
        poll                    => a:r
        accept e a              => done
        poll                    =>
        connect f a             => done
        poll                    => a:r
        ",
    ),
    (
        "unread_bytes_make_no_event_until_another_byte_arrives",
        "
        listen a                => done
        connect b a             => done
        accept c a              => done
        register c              => done
        poll                    => c:w
        write b 100             => 100
        poll                    => c:rw
        read c 10               => 10
        poll                    =>
        write b 1               => 1
        poll                    => c:rw
        read c 100              => 91
        read c 100              => would block
        ",
    ),
    (
        "bytes_and_fin_that_arrive_together_make_one_event",
        "
        listen a                => done
        connect b a             => done
        accept c a              => done
        register c              => done
        poll                    => c:w
        write b 5               => 5
        shut b                  => done
        poll                    => c:rweh
        read c 100              => 5
        poll                    =>
        read c 100              => 0
        ",
    ),
    (
        "full_send_buffer_makes_one_edge_once_enough_is_free",
        "
        buffers 65536           => done
        listen a                => done
        connect b a             => done
        accept c a              => done
        register b              => done
        poll                    => b:w
        fill b                  => would block
        sleep 50                => done
        fill b                  => would block
        poll                    =>
        read c 1                => 1
        poll                    =>
        drain c                 => some, would block
        poll                    => b:w
        poll                    =>
        ",
    ),
    (
        "registration_reports_existing_readiness",
        "
        listen a                => done
        connect b a             => done
        write b 1               => 1
        accept c a              => done
        poll                    =>
        register c              => done
        poll                    => c:rw
        rearm c                 => done
        poll                    => c:rw
        register c              => AlreadyExists
        ",
    ),
    (
        "refused_connect_is_one_event_and_one_error",
        "
        connect a nobody        => done
        register a              => done
        poll                    => a:rweh
        connected a             => ConnectionRefused
        poll                    =>
        connected a             => pending
        read a 1                => 0
        write a 1               => BrokenPipe
        ",
    ),
    (
        "udp_connect_keeps_queued_datagrams_of_others",
        "
        udp a                   => done
        udp b                   => done
        udp c                   => done
        register a              => done
        send b a 3              => 1 sent
        connect-datagram a c    => done
        send b a 4              => 1 sent
        send c a 5              => 1 sent
        poll                    => a:r
        receive a               => 3 from b
        receive a               => 5 from c
        receive a               => would block
        ",
    ),
    (
        "empty_udp_datagram_is_a_message",
        "
        udp a                   => done
        udp b                   => done
        register a              => done
        send b a 0              => 1 sent
        poll                    => a:r
        receive a               => 0 from b
        receive a               => would block
        ",
    ),
    (
        "datagram_longer_than_the_buffer_is_cut",
        "
        unix-datagram a         => done
        unix-datagram b         => done
        send b a 150            => 1 sent
        receive a               => 100 from b
        receive a               => would block
        ",
    ),
    (
        "send_that_returns_a_pending_error_makes_no_event",
        "
        unix-datagram a         => done
        unix-datagram b         => done
        unix-datagram c         => done
        register b              => done
        send a a 10             => 1 sent
        connect-datagram a b    => done
        connect-datagram b a    => done
        connect-datagram a c    => done
        poll                    => b:we
        send b b 1              => ConnectionReset
        poll                    =>
        send b a 1              => PermissionDenied
        poll                    => b:w
        ",
    ),
    (
        "only_a_connected_udp_socket_learns_that_a_datagram_was_refused",
        "
        udp a                   => done
        register a              => done
        send a nobody 1         => 1 sent
        poll                    =>
        connect-datagram a nobody => done
        send a peer 1           => 1 sent
        poll                    => a:e
        receive a               => ConnectionRefused
        send a peer 1           => 1 sent
        send a peer 1           => ConnectionRefused
        receive a               => would block
        ",
    ),
];

/// Facts about endings: FIN, reset, close and errors.
pub(super) const ENDINGS: &[(&str, &str)] = &[
    (
        "bytes_stay_readable_after_a_reset",
        "
        listen a                => done
        connect b a             => done
        accept c a              => done
        register c              => done
        write b 5               => 5
        reset b                 => done
        poll                    => c:rweh
        read c 100              => 5
        read c 100              => ConnectionReset
        read c 100              => 0
        ",
    ),
    (
        "reset_after_a_fin_is_a_broken_pipe_that_reads_do_not_report",
        "
        listen a                => done
        connect b a             => done
        accept c a              => done
        register c              => done
        close b                 => done
        poll                    => c:rweh
        write c 1               => 1
        poll                    => c:rweh
        read c 1                => 0
        take-error c            => BrokenPipe
        take-error c            => none
        ",
    ),
    (
        "close_with_unread_bytes_resets_the_peer",
        "
        listen a                => done
        connect b a             => done
        accept c a              => done
        write b 5               => 5
        close c                 => done
        read b 1                => ConnectionReset
        read b 1                => 0
        ",
    ),
    (
        "shutdown_makes_an_event_of_its_own_socket",
        "
        listen a                => done
        connect b a             => done
        register b              => done
        poll                    => b:w
        shut b                  => done
        poll                    => b:w
        write b 1               => BrokenPipe
        poll                    =>
        ",
    ),
    (
        "connection_has_no_peer_once_both_sides_ended",
        "
        listen a                => done
        connect b a             => done
        accept c a              => done
        connected c             => connected
        shut b                  => done
        connected c             => connected
        shut c                  => done
        connected c             => pending
        connected b             => pending
        shut b                  => NotConnected
        ",
    ),
    (
        "close_of_a_listener_resets_unaccepted_connections",
        "
        listen a                => done
        connect b a             => done
        register b              => done
        poll                    => b:w
        close a                 => done
        poll                    => b:rweh
        read b 1                => ConnectionReset
        ",
    ),
    (
        "backlog_holds_one_more_and_a_later_connect_is_repeated",
        "
        listen a backlog 0      => done
        connect b a             => done
        connect c a             => done
        connected b             => connected
        connected c             => pending
        read c 1                => would block
        write c 1               => would block
        accept d a              => done
        connected c             => pending
        sleep 1300              => done
        connected c             => connected
        ",
    ),
    (
        "close_of_a_unix_stream_ends_both_sides_of_its_peer",
        "
        listen-unix a           => done
        connect b a             => done
        accept c a              => done
        register c              => done
        close b                 => done
        poll                    => c:rweh
        write c 1               => BrokenPipe
        read c 1                => 0
        ",
    ),
    (
        "close_of_a_unix_stream_with_unread_bytes_is_a_reset",
        "
        listen-unix a           => done
        connect b a             => done
        accept c a              => done
        write c 5               => 5
        close b                 => done
        read c 1                => ConnectionReset
        read c 1                => 0
        ",
    ),
];

/// The packetdrill scripts of Linux for edge-triggered epoll (`gtests/net/tcp/epoll` of
/// google/packetdrill), without the one for `TCP_NOTSENT_LOWAT`, which is not simulated. Tests of
/// gVisor (`test/syscalls/linux/epoll.cc`) follow, with sockets in place of pipes and event
/// counters.
pub(super) const OF_OTHERS: &[(&str, &str)] = &[
    (
        "packetdrill_epoll_in_edge",
        "
        listen a                => done
        connect b a             => done
        accept c a              => done
        register c              => done
        poll                    => c:w
        poll                    =>
        write b 4000            => 4000
        poll                    => c:rw
        poll                    =>
        write b 6000            => 6000
        poll                    => c:rw
        poll                    =>
        read c 1000             => 1000
        poll                    =>
        write b 2000            => 2000
        poll                    => c:rw
        poll                    =>
        ",
    ),
    (
        "packetdrill_epoll_out_edge",
        "
        buffers 65536           => done
        listen a                => done
        connect b a             => done
        accept c a              => done
        register c              => done
        poll                    => c:w
        poll                    =>
        write-part c            => part
        drain b                 => some, would block
        poll                    => c:w
        poll                    =>
        write-part c            => part
        drain b                 => some, would block
        poll                    => c:w
        poll                    =>
        ",
    ),
    (
        "packetdrill_epoll_out_edge_default_notsent_lowat",
        "
        buffers 65536           => done
        listen a                => done
        connect b a             => done
        accept c a              => done
        register c              => done
        poll                    => c:w
        write-part c            => part
        fill c                  => would block
        sleep 50                => done
        fill c                  => would block
        poll                    =>
        drain b                 => some, would block
        poll                    => c:w
        poll                    =>
        ",
    ),
    (
        "gvisor_edge_triggered",
        "
        listen-unix a           => done
        connect b a             => done
        accept c a              => done
        register b              => done
        poll                    => b:w
        poll                    =>
        fill b                  => would block
        drain c                 => some, would block
        poll                    => b:w
        poll                    =>
        ",
    ),
    (
        "gvisor_close_file",
        "
        listen a                => done
        connect b a             => done
        register b              => done
        close b                 => done
        poll                    =>
        ",
    ),
    (
        "gvisor_all_writable",
        "
        listen a                => done
        connect b a             => done
        connect c a             => done
        connect d a             => done
        register b              => done
        register c              => done
        register d              => done
        poll                    => b:w c:w d:w
        ",
    ),
    (
        "gvisor_last_non_writable",
        "
        buffers 65536           => done
        listen a                => done
        connect b a             => done
        connect c a             => done
        fill c                  => would block
        register b              => done
        register c              => done
        poll                    => b:w
        ",
    ),
    (
        "gvisor_pipe_reader_hup_after_writer_closed",
        "
        listen-unix a           => done
        connect b a             => done
        accept c a              => done
        register b              => done
        write c 5               => 5
        close c                 => done
        poll                    => b:rweh
        read b 100              => 5
        read b 100              => 0
        ",
    ),
    (
        "gvisor_pipe_writer_err_after_reader_closed",
        "
        listen-unix a           => done
        connect b a             => done
        accept c a              => done
        write b 5               => 5
        register b              => done
        poll                    => b:w
        close c                 => done
        poll                    => b:rweh
        take-error b            => ConnectionReset
        write b 1               => BrokenPipe
        ",
    ),
];
