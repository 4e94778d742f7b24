import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import org.apache.flink.runtime.execution.SuppressRestartsException;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.GenericMapData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.binary.BinaryStringData;

/**
 * One byte array with the outputs of a batch -> rows (topic, key, value, headers) for the sink.
 *
 * <p>udfs/output_batch.py writes the bytes: groups of records that share a topic and the constant headers.
 *
 * <p>It counts dead letters among the last records of this subtask. Too many of them end the job, with an exception
 * that Flink does not restart after: the same records would come again. What became of requests does not count: nobody
 * who only asks may end the job. Nor do closed sessions, which are no answers to records.
 */
public class OutputRecords extends AbstractStreamOperator implements OneInputStreamOperator {

    private static final StringData SOURCE_TOPIC = BinaryStringData.fromString("millrace-topic");

    private final StringData deadLetters;
    private final StringData features;
    private final StringData sessions;
    private final DeadLetterLimit limit;
    private final byte[] requests;
    private transient StreamRecord reused;

    public OutputRecords(
            Object[] references, StreamTask task, StreamConfig config, Output output, ProcessingTimeService timers)
            throws Exception {
        deadLetters = BinaryStringData.fromString((String) references[0]);
        features = BinaryStringData.fromString((String) references[3]);
        limit = new DeadLetterLimit(((Integer) references[1]).intValue(), ((Integer) references[2]).intValue());
        sessions = BinaryStringData.fromString((String) references[5]);
        requests = ((String) references[4]).getBytes(StandardCharsets.UTF_8);
        this.setup(task, config, output);
        this.setProcessingTimeService(timers);
    }

    public void open() throws Exception {
        super.open();
        reused = new StreamRecord(null);
    }

    public void processElement(StreamRecord element) throws Exception {
        ByteBuffer bytes = ByteBuffer.wrap((byte[]) element.getValue()).order(ByteOrder.LITTLE_ENDIAN);
        while (bytes.hasRemaining()) {
            sendGroup(bytes);
        }
    }

    private void sendGroup(ByteBuffer bytes) {
        int count = bytes.getInt();
        StringData topic = readText(bytes);
        Map constant = new HashMap();
        for (int left = bytes.getInt(); left > 0; left--) {
            StringData name = readText(bytes);
            constant.put(name, readBytes(bytes));
        }
        StringData[] numberNames = readNames(bytes);
        StringData[] textNames = readNames(bytes);
        long[] numbers = readLongs(bytes, count * numberNames.length);
        byte[][][] texts = new byte[textNames.length][][];
        for (int column = 0; column < texts.length; column++) {
            texts[column] = readColumn(bytes, count);
        }
        boolean refused = topic.equals(deadLetters);
        boolean isAnswer = !topic.equals(features) && !topic.equals(sessions);
        boolean counts = isAnswer && !Arrays.equals(requests, (byte[]) constant.get(SOURCE_TOPIC));
        int reasons = refused ? placeOf("millrace-reason", textNames) : -1;
        byte[][] keys = readColumn(bytes, count);
        byte[][] values = readColumn(bytes, count);
        for (int i = 0; i < count; i++) {
            Map headers = new HashMap(constant);
            for (int column = 0; column < numberNames.length; column++) {
                headers.put(numberNames[column], digits(numbers[column * count + i]));
            }
            for (int column = 0; column < textNames.length; column++) {
                if (texts[column][i] != null) {
                    headers.put(textNames[column], texts[column][i]);
                }
            }
            if (counts) {
                limit.count(refused, reasons < 0 ? null : texts[reasons][i]);
                if (limit.isReached()) {
                    stop(headers);
                }
            }
            GenericRowData row = new GenericRowData(4);
            row.setField(0, topic);
            row.setField(1, keys[i]);
            row.setField(2, values[i]);
            row.setField(3, new GenericMapData(headers));
            output.collect(reused.replace(row));
        }
    }

    private void stop(Map headers) {
        String place = "partition " + text(headers, "millrace-partition") + ", offset " + text(headers, "millrace-offset");
        String subtask = String.valueOf(getRuntimeContext().getTaskInfo().getIndexOfThisSubtask());
        throw new SuppressRestartsException(new RuntimeException(
                "dead-letter limit: " + limit.words() + " in subtask " + subtask + ", the last from " + place
                        + ". Those after the last checkpoint are undone. Mend the pipeline or its events and start it"
                        + " again, it goes on from there; dead_letter_limit_share = 1 lets all through"));
    }

    private static String text(Map headers, String name) {
        Object found = headers.get(BinaryStringData.fromString(name));
        return found == null ? "?" : new String((byte[]) found, StandardCharsets.UTF_8);
    }

    private static int placeOf(String name, StringData[] names) {
        for (int i = 0; i < names.length; i++) {
            if (names[i].toString().equals(name)) {
                return i;
            }
        }
        return -1;
    }

    private static byte[] digits(long number) {
        return Long.toString(number).getBytes(StandardCharsets.ISO_8859_1);
    }

    private static byte[] readBytes(ByteBuffer bytes) {
        byte[] read = new byte[bytes.getInt()];
        bytes.get(read);
        return read;
    }

    private static StringData readText(ByteBuffer bytes) {
        return BinaryStringData.fromBytes(readBytes(bytes));
    }

    private static StringData[] readNames(ByteBuffer bytes) {
        StringData[] names = new StringData[bytes.getInt()];
        for (int i = 0; i < names.length; i++) {
            names[i] = readText(bytes);
        }
        return names;
    }

    private static long[] readLongs(ByteBuffer bytes, int count) {
        long[] read = new long[count];
        for (int i = 0; i < count; i++) {
            read[i] = bytes.getLong();
        }
        return read;
    }

    /** Lengths, -1 for null, then the bytes of each, with a newline behind it. */
    private static byte[][] readColumn(ByteBuffer bytes, int count) {
        byte[][] read = new byte[count][];
        int place = bytes.position() + 4 * count;
        for (int i = 0; i < count; i++) {
            int length = bytes.getInt();
            if (length >= 0) {
                read[i] = new byte[length];
                System.arraycopy(bytes.array(), place, read[i], 0, length);
                place += length + 1;
            }
        }
        bytes.position(place);
        return read;
    }

    /** How many of the last records were dead letters, by reason; before there are so many it is never reached. */
    private static class DeadLetterLimit {
        private final int most;
        private final byte[] last;
        private final List reasons = new ArrayList();
        private final int[] counts = new int[128];
        private int next;
        private int dead;
        private boolean isFull;

        DeadLetterLimit(int records, int most) {
            this.most = most;
            this.last = new byte[records];
        }

        void count(boolean refused, byte[] reason) {
            byte gone = last[next];
            if (gone != 0) {
                counts[gone]--;
                dead--;
            }
            last[next] = 0;
            if (refused) {
                last[next] = numberOf(reason);
                counts[last[next]]++;
                dead++;
            }
            next++;
            if (next == last.length) {
                next = 0;
                isFull = true;
            }
        }

        boolean isReached() {
            return isFull && dead > most;
        }

        String words() {
            int first = 1;
            for (int number = 2; number <= reasons.size(); number++) {
                first = counts[number] > counts[first] ? number : first;
            }
            return dead + " of the last " + last.length + " records are dead letters, more than " + most + ", "
                    + counts[first] + " of them " + reasons.get(first - 1);
        }

        /** From 1 on, in the order in which reasons were seen. */
        private byte numberOf(byte[] reason) {
            String text = reason == null ? "?" : new String(reason, StandardCharsets.UTF_8);
            int place = reasons.indexOf(text);
            if (place < 0) {
                place = reasons.size();
                reasons.add(text);
            }
            return (byte) (place + 1);
        }
    }
}
