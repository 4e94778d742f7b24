import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

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
 */
public class OutputRecords extends AbstractStreamOperator implements OneInputStreamOperator {

    private transient StreamRecord reused;

    public OutputRecords(
            Object[] references, StreamTask task, StreamConfig config, Output output, ProcessingTimeService timers)
            throws Exception {
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
            GenericRowData row = new GenericRowData(4);
            row.setField(0, topic);
            row.setField(1, keys[i]);
            row.setField(2, values[i]);
            row.setField(3, new GenericMapData(headers));
            output.collect(reused.replace(row));
        }
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
}
