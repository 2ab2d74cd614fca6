// Tests echo servers with Netty's LengthFieldBasedFrameDecoder, ProtobufVarint32FrameDecoder,
// LineBasedFrameDecoder and DelimiterBasedFrameDecoder.
// usage: NettyPeer.java NAME=HOST:PORT...        (NAME is the framing of the echo server)

import io.netty.bootstrap.Bootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.ByteBufUtil;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.DelimiterBasedFrameDecoder;
import io.netty.handler.codec.Delimiters;
import io.netty.handler.codec.LengthFieldBasedFrameDecoder;
import io.netty.handler.codec.LengthFieldPrepender;
import io.netty.handler.codec.LineBasedFrameDecoder;
import io.netty.handler.codec.MessageToByteEncoder;
import io.netty.handler.codec.protobuf.ProtobufVarint32FrameDecoder;
import io.netty.handler.codec.protobuf.ProtobufVarint32LengthFieldPrepender;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

class NettyPeer {
    static final int FRAME_LEN_MAX = 1 << 20;

    public static void main(String[] args) throws Exception {
        NioEventLoopGroup group = new NioEventLoopGroup(1);
        for (String arg : args) {
            String name = arg.substring(0, arg.indexOf('='));
            String addr = arg.substring(arg.indexOf('=') + 1);
            if (name.equals("varint")) {
                check(group, name, addr, new ProtobufVarint32FrameDecoder(),
                    new ProtobufVarint32LengthFieldPrepender());
            } else if (name.equals("line")) {
                check(group, name, addr, new LineBasedFrameDecoder(FRAME_LEN_MAX), new LineEnd());
                check(group, name, addr,
                    new DelimiterBasedFrameDecoder(FRAME_LEN_MAX, Delimiters.lineDelimiter()),
                    new LineEnd());
            } else if (name.startsWith("u")) {
                ByteOrder order = name.endsWith("-le")
                    ? ByteOrder.LITTLE_ENDIAN : ByteOrder.BIG_ENDIAN;
                int width = Integer.parseInt(name.substring(1).split("-")[0]) / 8;
                check(group, name, addr,
                    new LengthFieldBasedFrameDecoder(
                        order, FRAME_LEN_MAX, 0, width, 0, width, true),
                    new LengthFieldPrepender(order, width, 0, false));
            }
        }
        group.shutdownGracefully(0, 1, TimeUnit.SECONDS).sync();
    }

    static void check(NioEventLoopGroup group, String name, String addr, ChannelHandler decoder,
            ChannelHandler encoder) throws Exception {
        BlockingQueue<byte[]> received = new LinkedBlockingQueue<>();
        Bootstrap bootstrap = new Bootstrap().group(group).channel(NioSocketChannel.class)
            .handler(new ChannelInitializer<Channel>() {
                @Override
                protected void initChannel(Channel channel) {
                    channel.pipeline().addLast(decoder, encoder,
                        new SimpleChannelInboundHandler<ByteBuf>() {
                            @Override
                            protected void channelRead0(ChannelHandlerContext cx, ByteBuf frame) {
                                received.add(ByteBufUtil.getBytes(frame));
                            }
                        });
                }
            });
        int colon = addr.lastIndexOf(':');
        Channel channel = bootstrap.connect(
            addr.substring(0, colon), Integer.parseInt(addr.substring(colon + 1))).sync().channel();
        List<byte[]> sent = new ArrayList<>();
        for (int index = 0; index < 1000; index++) {
            sent.add("payload ".repeat(13).substring(0, index % 97).getBytes());
        }
        sent.add("x".repeat(name.equals("u8") ? 255 : 50_000).getBytes());
        for (byte[] payload : sent) {
            channel.write(Unpooled.wrappedBuffer(payload));
        }
        channel.flush();
        for (byte[] payload : sent) {
            byte[] frame = received.poll(30, TimeUnit.SECONDS);
            if (!Arrays.equals(frame, payload)) {
                throw new AssertionError(name + ": the echo differs from the payload");
            }
        }
        channel.close().sync();
        System.out.println("ok: " + decoder.getClass().getSimpleName() + " with " + name + ", "
            + sent.size() + " frames");
    }

    static class LineEnd extends MessageToByteEncoder<ByteBuf> {
        @Override
        protected void encode(ChannelHandlerContext cx, ByteBuf payload, ByteBuf out) {
            out.writeBytes(payload).writeByte('\n');
        }
    }
}
