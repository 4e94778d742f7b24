import java.io.BufferedOutputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.CopyOption;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.ExecutionConfig;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.base.array.BytePrimitiveArraySerializer;
import org.apache.flink.core.fs.CloseableRegistry;
import org.apache.flink.runtime.state.IncrementalKeyedStateHandle;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.LocalRecoveryConfig;
import org.apache.flink.runtime.state.SavepointKeyedStateHandle;
import org.apache.flink.runtime.state.StateSerializerProvider;
import org.apache.flink.runtime.state.UncompressedStreamCompressionDecorator;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.heap.HeapKeyedStateBackend;
import org.apache.flink.runtime.state.heap.HeapKeyedStateBackendBuilder;
import org.apache.flink.runtime.state.heap.HeapPriorityQueueSetFactory;
import org.apache.flink.runtime.state.metainfo.StateMetaInfoSnapshot;
import org.apache.flink.runtime.state.metrics.LatencyTrackingStateConfig;
import org.apache.flink.runtime.state.metrics.SizeTrackingStateConfig;
import org.apache.flink.runtime.state.restore.FullSnapshotRestoreOperation;
import org.apache.flink.runtime.state.restore.KeyGroup;
import org.apache.flink.runtime.state.restore.KeyGroupEntry;
import org.apache.flink.runtime.state.restore.SavepointRestoreResult;
import org.apache.flink.runtime.state.restore.ThrowingIterator;
import org.apache.flink.runtime.state.ttl.TtlTimeProvider;
import org.apache.flink.streaming.api.utils.ByteArrayWrapper;
import org.apache.flink.streaming.api.utils.ByteArrayWrapperSerializer;
import org.apache.flink.types.Row;
import org.rocksdb.ColumnFamilyDescriptor;
import org.rocksdb.ColumnFamilyHandle;
import org.rocksdb.Options;
import org.rocksdb.RocksDB;
import org.rocksdb.RocksIterator;

/**
 * Copies the entries of a map state of PyFlink's, keyed by rows of one integer, out of what a subtask wrote into a
 * checkpoint or savepoint. In the file: length and bytes of key and value of each entry, as RocksDB and savepoints have
 * them (key group, key, namespace, key in the map; whether null, value).
 */
public class ShardLogReader {
    private static final int KEY_GROUPS = 128;

    private final ClassLoader loader = Thread.currentThread().getContextClassLoader();
    private final TypeSerializer keys;
    private final String state;

    public ShardLogReader(TypeSerializer keys, String state) {
        this.keys = keys;
        this.state = state;
    }

    public void copy(KeyedStateHandle handle, String folder, String target) throws Exception {
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(target), 1 << 20));
        try {
            if (handle instanceof IncrementalRemoteKeyedStateHandle) {
                copyIncrement((IncrementalRemoteKeyedStateHandle) handle, folder, out);
            } else if (handle instanceof SavepointKeyedStateHandle) {
                copySavepoint(handle, out);
            } else {
                copyHashMap(handle, out);
            }
        } finally {
            out.close();
        }
    }

    /** By the procedure that every state backend restores a savepoint with. */
    private void copySavepoint(KeyedStateHandle handle, DataOutputStream out) throws Exception {
        ThrowingIterator results =
                new FullSnapshotRestoreOperation(
                                handle.getKeyGroupRange(),
                                loader,
                                Collections.singletonList(handle),
                                StateSerializerProvider.fromNewRegisteredSerializer(keys))
                        .restore();
        while (results.hasNext()) {
            SavepointRestoreResult result = (SavepointRestoreResult) results.next();
            List states = result.getStateMetaInfoSnapshots();
            ThrowingIterator groups = result.getRestoredKeyGroups();
            while (groups.hasNext()) {
                ThrowingIterator entries = ((KeyGroup) groups.next()).getKeyGroupEntries();
                while (entries.hasNext()) {
                    KeyGroupEntry entry = (KeyGroupEntry) entries.next();
                    if (((StateMetaInfoSnapshot) states.get(entry.getKvStateId())).getName().equals(state)) {
                        write(entry.getKey(), entry.getValue(), out);
                    }
                }
            }
            groups.close();
        }
    }

    /** From the files of a RocksDB, put together where RocksDB expects them. */
    private void copyIncrement(IncrementalRemoteKeyedStateHandle handle, String folder, DataOutputStream out)
            throws Exception {
        RocksDB.loadLibrary();
        place(handle.getSharedState(), folder);
        place(handle.getPrivateState(), folder);
        Options options = new Options();
        List names = RocksDB.listColumnFamilies(options, folder);
        options.close();
        List descriptors = new ArrayList();
        int wanted = -1;
        for (int family = 0; family < names.size(); family++) {
            byte[] name = (byte[]) names.get(family);
            descriptors.add(new ColumnFamilyDescriptor(name));
            wanted = new String(name, "UTF-8").equals(state) ? family : wanted;
        }
        List families = new ArrayList();
        RocksDB database = RocksDB.openReadOnly(folder, descriptors, families);
        try {
            if (wanted >= 0) {
                copyRange(database, (ColumnFamilyHandle) families.get(wanted), handle.getKeyGroupRange(), out);
            }
        } finally {
            for (int family = 0; family < families.size(); family++) {
                ((ColumnFamilyHandle) families.get(family)).close();
            }
            database.close();
        }
    }

    /** Only its own key groups: files taken over from another parallelism hold others, too. */
    private void copyRange(RocksDB database, ColumnFamilyHandle family, KeyGroupRange groups, DataOutputStream out)
            throws Exception {
        RocksIterator entries = database.newIterator(family);
        try {
            entries.seek(new byte[] {(byte) groups.getStartKeyGroup()});
            while (entries.isValid() && (entries.key()[0] & 0xFF) <= groups.getEndKeyGroup()) {
                write(entries.key(), entries.value(), out);
                entries.next();
            }
            entries.status();
        } finally {
            entries.close();
        }
    }

    private void place(List files, String folder) throws IOException {
        for (int number = 0; number < files.size(); number++) {
            IncrementalKeyedStateHandle.HandleAndLocalPath file =
                    (IncrementalKeyedStateHandle.HandleAndLocalPath) files.get(number);
            InputStream in = file.getHandle().openInputStream();
            try {
                Files.copy(in, new File(folder, file.getLocalPath()).toPath(), new CopyOption[0]);
            } finally {
                in.close();
            }
        }
    }

    /** By the backend itself: its checkpoints are its tables. */
    private void copyHashMap(KeyedStateHandle handle, DataOutputStream out) throws Exception {
        HeapKeyedStateBackend backend = hashMapBackend(handle);
        try {
            MapStateDescriptor descriptor =
                    new MapStateDescriptor(
                            state, ByteArrayWrapperSerializer.INSTANCE, BytePrimitiveArraySerializer.INSTANCE);
            Object[] rows = backend.getKeys(state, VoidNamespace.INSTANCE).toArray();
            for (int place = 0; place < rows.length; place++) {
                backend.setCurrentKey(rows[place]);
                MapState kept =
                        (MapState)
                                backend.getPartitionedState(
                                        VoidNamespace.INSTANCE, VoidNamespaceSerializer.INSTANCE, descriptor);
                Iterator entries = kept.entries().iterator();
                while (entries.hasNext()) {
                    Map.Entry entry = (Map.Entry) entries.next();
                    writeEntry((Row) rows[place], (ByteArrayWrapper) entry.getKey(), (byte[]) entry.getValue(), out);
                }
            }
        } finally {
            backend.dispose();
        }
    }

    private HeapKeyedStateBackend hashMapBackend(KeyedStateHandle handle) throws Exception {
        return new HeapKeyedStateBackendBuilder(
                        null,
                        keys,
                        loader,
                        KEY_GROUPS,
                        handle.getKeyGroupRange(),
                        new ExecutionConfig(),
                        TtlTimeProvider.DEFAULT,
                        LatencyTrackingStateConfig.disabled(),
                        SizeTrackingStateConfig.disabled(),
                        Collections.singletonList(handle),
                        UncompressedStreamCompressionDecorator.INSTANCE,
                        LocalRecoveryConfig.BACKUP_AND_RECOVERY_DISABLED,
                        new HeapPriorityQueueSetFactory(handle.getKeyGroupRange(), KEY_GROUPS, 128),
                        false,
                        new CloseableRegistry())
                .build();
    }

    private static void writeEntry(Row row, ByteArrayWrapper name, byte[] value, DataOutputStream out)
            throws IOException {
        int length = name.getLimit() - name.getOffset();
        out.writeInt(11 + length);
        out.writeShort(0); // the key group, which nobody looks at, and no field of the key is null
        out.writeInt(((Integer) row.getField(0)).intValue());
        out.writeByte(0);
        out.writeInt(length);
        out.write(name.getData(), name.getOffset(), length);
        out.writeInt(value == null ? 1 : 5 + value.length);
        out.writeBoolean(value == null);
        if (value != null) {
            out.writeInt(value.length);
            out.write(value);
        }
    }

    private static void write(byte[] key, byte[] value, DataOutputStream out) throws IOException {
        out.writeInt(key.length);
        out.write(key);
        out.writeInt(value.length);
        out.write(value);
    }
}
