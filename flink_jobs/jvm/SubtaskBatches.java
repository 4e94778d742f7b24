import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

import org.apache.flink.runtime.metrics.TimerGauge;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.ArrayData;
import org.apache.flink.table.data.MapData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.types.Row;
import org.apache.flink.util.MathUtils;

/**
 * Raw Kafka records -> (shard key, one byte array), before the shuffle; udfs/record_batch.py reads the bytes.
 *
 * <p>An array holds the records of all shards of one subtask of the next operator, shard by shard, and goes under the key
 * of any of them. Batches are sent every batch_ms, when they are large, and before every checkpoint barrier: so there is
 * no state, and nothing is lost or sent twice. While the task is never idle, because there is a backlog, they may wait
 * ten times as long: fewer, larger ones cost less.
 *
 * <p>The shard is that of the entity as text, which a key holds in some format (udfs/event_keys.py): the bytes of a key
 * that names its schema change with the schema.
 *
 * <p>Of a value that its pipeline refuses for its size only the first bytes go on, and its size: a few bytes in the topic
 * may be hundreds of megabytes, for brokers limit compressed batches.
 *
 * <p>Arrays without records go under the key of the shard they are about: at the start, READ its state, before anything
 * else and before the first barrier, so that every checkpoint holds what was read; before a barrier, and when many of its
 * records have been sent since, WRITE its state.
 *
 * <p>What records are, events, requests or rows of lookups, is the command that their arrays begin with. Rows go to all
 * subtasks, as records of any shard of theirs. Every tick_ms, if that is not 0, the first of the operator's subtasks tells
 * all of the next that time goes on, which may change the state of any shard.
 */
public class SubtaskBatches extends AbstractStreamOperator
        implements OneInputStreamOperator, ProcessingTimeService.ProcessingTimeCallback {

    private static final int READ = 1;
    private static final int WRITE = 2;
    private static final int REQUESTS = 4;
    private static final int LOOKUPS = 5;
    private static final int TICK = 6;
    private static final int COMMAND_BITS = 0xFF;
    private static final int MOST_RECORDS = 4_000;
    private static final int MOST_BYTES = 1 << 20;
    private static final int MOST_KEPT_BYTES = 2 * MOST_BYTES;
    private static final int MOST_UNWRITTEN = 10_000;
    private static final int LONGEST_STRETCH = 10;
    private static final int TEXT = 0;
    private static final int JSON = 1;
    private static final int AVRO_LONG = 3;
    private static final ObjectMapper JSON_READER = new ObjectMapper();

    private final int[] shardKeys;
    private final long batchMs;
    private final int[] subtaskOfShard;
    private final int keyForm;
    private final int keyHead;
    private final int mostValueBytes;
    private final int command;
    private final long tickMs;
    private final Object[] headers;
    private final int[] shardOfSubtask;
    private transient Shard[] shards;
    private transient int[] records;
    private transient int[] bytes;
    private transient TimerGauge idle;
    private transient StreamRecord reused;
    private transient boolean timerIsSet;
    private transient boolean statesAreRead;
    private transient long waitMs;
    private transient long lastSentMs;
    private transient long lastIdleMs;

    public SubtaskBatches(
            Object[] references, StreamTask task, StreamConfig config, Output output, ProcessingTimeService timers)
            throws Exception {
        this.shardKeys = (int[]) references[0];
        this.batchMs = ((Number) references[1]).longValue();
        int maxParallelism = ((Number) references[2]).intValue();
        int parallelism = ((Number) references[3]).intValue();
        this.keyForm = ((Number) references[4]).intValue();
        this.keyHead = ((Number) references[5]).intValue();
        this.headers = (Object[]) references[6];
        this.mostValueBytes = (int) Math.min(((Number) references[7]).longValue(), 1 << 30) + 1;
        this.command = ((Number) references[8]).intValue();
        this.tickMs = ((Number) references[9]).longValue();
        this.subtaskOfShard = new int[shardKeys.length];
        for (int shard = 0; shard < shardKeys.length; shard++) {
            Row key = Row.of(new Object[] {Integer.valueOf(shardKeys[shard])});
            subtaskOfShard[shard] = KeyGroupRangeAssignment.assignKeyToParallelOperator(key, maxParallelism, parallelism);
        }
        this.shardOfSubtask = new int[parallelism];
        Arrays.fill(shardOfSubtask, -1);
        for (int shard = shardKeys.length - 1; shard >= 0; shard--) {
            shardOfSubtask[subtaskOfShard[shard]] = shard;
        }
        this.records = new int[parallelism];
        this.bytes = new int[parallelism];
        this.setup(task, config, output);
        this.setProcessingTimeService(timers);
    }

    public void open() throws Exception {
        super.open();
        shards = new Shard[shardKeys.length];
        for (int shard = 0; shard < shards.length; shard++) {
            shards[shard] = new Shard();
        }
        idle = getContainingTask().getEnvironment().getMetricGroup().getIOMetricGroup().getIdleTimeMsPerSecond();
        reused = new StreamRecord(null);
        waitMs = batchMs;
        // so that Python opens the model and reads the state before the first record comes
        ProcessingTimeService timers = getProcessingTimeService();
        timers.registerTimer(timers.getCurrentProcessingTime(), new Start(this));
        if (tickMs > 0 && getRuntimeContext().getTaskInfo().getIndexOfThisSubtask() == 0) {
            timers.registerTimer(timers.getCurrentProcessingTime() + tickMs, new Tick(this));
        }
    }

    public void processElement(StreamRecord element) throws Exception {
        RowData record = (RowData) element.getValue();
        byte[] key = record.isNullAt(0) ? null : record.getBinary(0);
        byte[] value = record.isNullAt(1) ? null : record.getBinary(1);
        int size = value == null ? 0 : value.length;
        if (size > mostValueBytes) {
            value = Arrays.copyOf(value, mostValueBytes);
        }
        if ((command & COMMAND_BITS) == LOOKUPS) {
            for (int shard : shardOfSubtask) {
                if (shard >= 0) {
                    gather(shard, key, value, size, record);
                }
            }
        } else {
            int hash = key == null ? 0 : MathUtils.murmurHash(Arrays.hashCode(entity(key)));
            gather(Math.floorMod(hash, shards.length), key, value, size, record);
        }
        if (!timerIsSet) {
            timerIsSet = true;
            ProcessingTimeService timers = getProcessingTimeService();
            long nowMs = timers.getCurrentProcessingTime();
            // all subtasks at the same moments, so that their batches go into Python together
            timers.registerTimer(nowMs - nowMs % waitMs + waitMs, this);
        }
    }

    private void gather(int shard, byte[] key, byte[] value, int size, RowData record) {
        shards[shard].add(key, value, size, record.getInt(2), record.getLong(3), record.getTimestamp(4, 3).getMillisecond());
        if (headers.length > 0) {
            shards[shard].addHeaders(headers, record.isNullAt(5) ? null : record.getMap(5));
        }
        int subtask = subtaskOfShard[shard];
        records[subtask]++;
        bytes[subtask] += (key == null ? 0 : key.length) + (value == null ? 0 : value.length);
        if (records[subtask] == MOST_RECORDS || bytes[subtask] >= MOST_BYTES) {
            sendRecords(subtask);
        }
    }

    /** The entity as text; the key itself where it holds none, which makes a dead letter of the record. */
    private byte[] entity(byte[] key) {
        if (keyForm == TEXT || key.length <= keyHead || (keyHead > 0 && key[0] != 0)) {
            return key;
        }
        byte[] found = keyForm == JSON ? fromJson(key) : fromAvro(key);
        return found == null ? key : found;
    }

    private byte[] fromJson(byte[] key) {
        try {
            String text = JSON_READER.readTree(key, keyHead, key.length - keyHead).asText();
            return text.getBytes(StandardCharsets.UTF_8);
        } catch (java.io.IOException error) {
            return null;
        }
    }

    /** A whole number, or the length of a text and the text; a record of one field has the same bytes. */
    private byte[] fromAvro(byte[] key) {
        long left = 0;
        int at = keyHead;
        for (int shift = 0; ; shift += 7) {
            if (at == key.length || shift > 63) {
                return null;
            }
            int octet = key[at++];
            left |= (long) (octet & 0x7F) << shift;
            if (octet >= 0) {
                break;
            }
        }
        long number = (left >>> 1) ^ -(left & 1);
        if (keyForm == AVRO_LONG) {
            return at == key.length ? Long.toString(number).getBytes(StandardCharsets.UTF_8) : null;
        }
        return number == key.length - at ? Arrays.copyOfRange(key, at, key.length) : null;
    }

    public void onProcessingTime(long time) throws Exception {
        timerIsSet = false;
        long nowMs = System.currentTimeMillis();
        long idleMs = idle.getAccumulatedCount();
        boolean busy = (idleMs - lastIdleMs) * 10 < nowMs - lastSentMs;
        waitMs = busy ? Math.min(2 * waitMs, LONGEST_STRETCH * batchMs) : batchMs;
        lastIdleMs = idleMs;
        lastSentMs = nowMs;
        sendAllRecords();
    }

    public void prepareSnapshotPreBarrier(long checkpointId) throws Exception {
        readStates();
        sendAllRecords();
        for (int shard = 0; shard < shards.length; shard++) {
            // requests change no state
            if (shards[shard].unwritten > 0 && command != REQUESTS) {
                sendCommand(WRITE, shard);
            }
        }
    }

    public void finish() throws Exception {
        sendAllRecords();
        super.finish();
    }

    private void sendAllRecords() {
        for (int subtask = 0; subtask < records.length; subtask++) {
            if (records[subtask] > 0) {
                sendRecords(subtask);
            }
        }
    }

    void readStates() {
        if (statesAreRead) {
            return;
        }
        statesAreRead = true;
        for (int shard = 0; shard < shards.length; shard++) {
            sendCommand(READ, shard);
        }
    }

    void tick() {
        readStates();
        boolean[] isTold = new boolean[records.length];
        for (int shard = 0; shard < shards.length; shard++) {
            shards[shard].unwritten = Math.max(shards[shard].unwritten, 1);
            if (!isTold[subtaskOfShard[shard]]) {
                isTold[subtaskOfShard[shard]] = true;
                sendCommand(TICK, shard);
            }
        }
        ProcessingTimeService timers = getProcessingTimeService();
        timers.registerTimer(timers.getCurrentProcessingTime() + tickMs, new Tick(this));
    }

    private void sendRecords(int subtask) {
        readStates();
        int segments = 0;
        int count = 0;
        int keysSize = 0;
        int valuesSize = 0;
        int cuts = 0;
        int headersSize = 0;
        int anyKey = 0;
        for (int shard = 0; shard < shards.length; shard++) {
            if (subtaskOfShard[shard] == subtask && shards[shard].count > 0) {
                segments++;
                count += shards[shard].count;
                keysSize += shards[shard].keysEnd;
                valuesSize += shards[shard].valuesEnd;
                cuts += shards[shard].cuts;
                headersSize += shards[shard].headersEnd;
                anyKey = shardKeys[shard];
            }
        }
        int size = 20 + 8 * segments + 28 * count + keysSize + valuesSize + 8 * cuts + headersSize;
        ByteBuffer batch = ByteBuffer.allocate(size);
        batch.order(ByteOrder.LITTLE_ENDIAN);
        batch.putInt(command).putInt(segments).putInt(count).putInt(keysSize);
        for (int part = 0; part < Shard.PARTS; part++) {
            if (part == Shard.PARTS - 1) {
                batch.putInt(cuts);
                if (cuts > 0) {
                    writeCuts(subtask, batch);
                }
            }
            for (int shard = 0; shard < shards.length; shard++) {
                if (subtaskOfShard[shard] == subtask && shards[shard].count > 0) {
                    shards[shard].write(part, shardKeys[shard], batch);
                }
            }
        }
        records[subtask] = 0;
        bytes[subtask] = 0;
        output.collect(reused.replace(Row.of(new Object[] {Integer.valueOf(anyKey), batch.array()})));
        for (int shard = 0; shard < shards.length; shard++) {
            if (subtaskOfShard[shard] == subtask) {
                shards[shard].clear();
                if (shards[shard].unwritten > MOST_UNWRITTEN && command != REQUESTS) {
                    sendCommand(WRITE, shard);
                }
            }
        }
    }

    /** Row and size of each value that is not whole. */
    private void writeCuts(int subtask, ByteBuffer batch) {
        int row = 0;
        for (int shard = 0; shard < shards.length; shard++) {
            if (subtaskOfShard[shard] == subtask) {
                for (int i = 0; i < shards[shard].count; i++, row++) {
                    if (shards[shard].sizes[i] > mostValueBytes) {
                        batch.putInt(row).putInt(shards[shard].sizes[i]);
                    }
                }
            }
        }
    }

    private void sendCommand(int command, int shard) {
        if (command == WRITE) {
            shards[shard].unwritten = 0;
        }
        byte[] bytes = ByteBuffer.allocate(16).order(ByteOrder.LITTLE_ENDIAN).putInt(command).array();
        output.collect(reused.replace(Row.of(new Object[] {Integer.valueOf(shardKeys[shard]), bytes})));
    }

    private static final class Start implements ProcessingTimeService.ProcessingTimeCallback {
        private final SubtaskBatches owner;

        Start(SubtaskBatches owner) {
            this.owner = owner;
        }

        public void onProcessingTime(long time) {
            owner.readStates();
        }
    }

    private static final class Tick implements ProcessingTimeService.ProcessingTimeCallback {
        private final SubtaskBatches owner;

        Tick(SubtaskBatches owner) {
            this.owner = owner;
        }

        public void onProcessingTime(long time) {
            owner.tick();
        }
    }

    /** The records of one shard, column by column. */
    private static final class Shard {
        static final int PARTS = 10;
        int count;
        int keysEnd;
        int valuesEnd;
        int cuts;
        int headersEnd;
        long unwritten;
        private long[] offsets = new long[8];
        private long[] timesMs = new long[8];
        private int[] partitions = new int[8];
        private int[] keyLengths = new int[8];
        private int[] valueLengths = new int[8];
        private int[] sizes = new int[8];
        private byte[] keys = new byte[128];
        private byte[] values = new byte[1024];
        private byte[] headers = new byte[0];

        void add(byte[] key, byte[] value, int size, int partition, long offset, long timeMs) {
            if (count == offsets.length) {
                offsets = Arrays.copyOf(offsets, 2 * count);
                timesMs = Arrays.copyOf(timesMs, 2 * count);
                partitions = Arrays.copyOf(partitions, 2 * count);
                keyLengths = Arrays.copyOf(keyLengths, 2 * count);
                valueLengths = Arrays.copyOf(valueLengths, 2 * count);
                sizes = Arrays.copyOf(sizes, 2 * count);
            }
            offsets[count] = offset;
            timesMs[count] = timeMs;
            partitions[count] = partition;
            keyLengths[count] = key == null ? -1 : key.length;
            valueLengths[count] = value == null ? -1 : value.length;
            sizes[count] = size;
            if (value != null && size > value.length) {
                cuts++;
            }
            count++;
            unwritten++;
            if (key != null) {
                keys = withLine(keys, keysEnd, key);
                keysEnd += key.length + 1;
            }
            if (value != null) {
                values = withLine(values, valuesEnd, value);
                valuesEnd += value.length + 1;
            }
        }

        /** Of each name its length and bytes; of two headers with one name Flink has the last one. */
        void addHeaders(Object[] names, MapData found) {
            for (Object name : names) {
                byte[] header = found == null ? null : headerOf(name.toString(), found);
                int length = header == null ? -1 : header.length;
                headers = large(headers, headersEnd + 4 + Math.max(length, 0));
                ByteBuffer.wrap(headers, headersEnd, 4).order(ByteOrder.LITTLE_ENDIAN).putInt(length);
                headersEnd += 4;
                if (header != null) {
                    System.arraycopy(header, 0, headers, headersEnd, length);
                    headersEnd += length;
                }
            }
        }

        private static byte[] headerOf(String name, MapData found) {
            ArrayData names = found.keyArray();
            for (int i = 0; i < found.size(); i++) {
                if (!names.isNullAt(i) && names.getString(i).toString().equals(name)) {
                    return found.valueArray().isNullAt(i) ? null : found.valueArray().getBinary(i);
                }
            }
            return null;
        }

        private static byte[] large(byte[] bytes, int needed) {
            return needed <= bytes.length ? bytes : Arrays.copyOf(bytes, Math.max(needed, 2 * bytes.length));
        }

        private static byte[] withLine(byte[] lines, int end, byte[] line) {
            byte[] larger = large(lines, end + line.length + 1);
            System.arraycopy(line, 0, larger, end, line.length);
            larger[end + line.length] = '\n';
            return larger;
        }

        void clear() {
            count = 0;
            keysEnd = 0;
            valuesEnd = 0;
            cuts = 0;
            headersEnd = 0;
            // a shard's arrays would stay as large as its largest record ever was
            keys = keys.length > MOST_KEPT_BYTES ? new byte[128] : keys;
            values = values.length > MOST_KEPT_BYTES ? new byte[1024] : values;
            headers = headers.length > MOST_KEPT_BYTES ? new byte[0] : headers;
        }

        /** Writes one of the parts of a batch, which hold all shards each. */
        void write(int part, int shardKey, ByteBuffer batch) {
            switch (part) {
                case 0:
                    writeLongs(offsets, batch);
                    break;
                case 1:
                    writeLongs(timesMs, batch);
                    break;
                case 2:
                    batch.putInt(shardKey);
                    break;
                case 3:
                    batch.putInt(count);
                    break;
                case 4:
                    writeInts(partitions, batch);
                    break;
                case 5:
                    writeInts(keyLengths, batch);
                    break;
                case 6:
                    writeInts(valueLengths, batch);
                    break;
                case 7:
                    batch.put(keys, 0, keysEnd);
                    break;
                case 8:
                    batch.put(values, 0, valuesEnd);
                    break;
                default:
                    batch.put(headers, 0, headersEnd);
            }
        }

        private void writeLongs(long[] numbers, ByteBuffer batch) {
            for (int i = 0; i < count; i++) {
                batch.putLong(numbers[i]);
            }
        }

        private void writeInts(int[] numbers, ByteBuffer batch) {
            for (int i = 0; i < count; i++) {
                batch.putInt(numbers[i]);
            }
        }
    }
}
